/** A wait that ends. */

/** Whether `work` is done within `ms`; it goes on all the same, and then nobody hears of its failure. @throws as `work` */
export async function within(ms: number, work: Promise<unknown>): Promise<boolean> {
  const late = Promise.withResolvers<false>();
  const timer = setTimeout(() => late.resolve(false), ms);
  try {
    return await Promise.race([work.then(() => true), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
