// Styles of a library are loaded with the page that needs it.

/** @type {Map<string, Promise<void>>} */
const loaded = new Map();

/** @param {string} href */
export function style(href) {
  let promise = loaded.get(href);
  if (!promise) {
    promise = new Promise((resolve, reject) => {
      const link = document.createElement('link');
      link.rel = 'stylesheet';
      link.href = href;
      link.onload = () => resolve();
      link.onerror = () => reject(new Error(href));
      // Before our own sheet, which overrules it.
      document.head.prepend(link);
    });
    loaded.set(href, promise);
  }
  return promise;
}
