// Runs before the first paint, so that a chosen theme or language does not flash.
(() => {
  const root = document.documentElement;
  /** @param {string} name */
  const kept = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  };
  const theme = kept('madang.theme');
  if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
  root.lang = kept('madang.language') ?? (navigator.language.startsWith('ko') ? 'ko' : 'en');
})();
