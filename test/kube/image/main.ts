/** `make image`: builds the image where it is out of date, and says where it is. More than one where they are named. */
import { TARGETS, builtImage } from './builder.ts';

const wanted = TARGETS.filter((target) => process.argv.includes(target));
for (const target of wanted.length > 0 ? wanted : (['culvert'] as const)) {
  const image = await builtImage(target, (doing) => {
    process.stdout.write(`  ${doing}\n`);
  });
  process.stdout.write(
    `  ${image.reference}  ${image.digest}\n  ${(image.archiveBytes / 1e6).toFixed(1)} MB compressed: ${image.archive}\n`,
  );
}
