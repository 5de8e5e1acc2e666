/** `make image`: builds the image where it is out of date, and says where it is. */
import { builtImage } from './builder.ts';

const image = await builtImage('culvert', (doing) => {
  process.stdout.write(`  ${doing}\n`);
});
process.stdout.write(
  `  ${image.reference}  ${image.digest}\n  ${(image.archiveBytes / 1e6).toFixed(1)} MB compressed: ${image.archive}\n`,
);
