import { html } from 'preact';

// Drawn on a grid of 20 with a pen of 1.6; decoration only, so hidden from screen readers.
const paths = {
  overview: 'M3 10.5h4.5V17H3zM12.5 3H17v14h-4.5zM7.8 6.5h4.4V17H7.8z',
  map: 'M10 17.5s5.5-4.6 5.5-9A5.5 5.5 0 0 0 10 3a5.5 5.5 0 0 0-5.5 5.5c0 4.4 5.5 9 5.5 9zM10 10.4a1.9 1.9 0 1 0 0-3.8 1.9 1.9 0 0 0 0 3.8z',
  rules: 'M10 3a4.6 4.6 0 0 1 4.6 4.6c0 4.6 1.9 5.6 1.9 5.6h-13s1.9-1 1.9-5.6A4.6 4.6 0 0 1 10 3zM8.4 16.2a1.7 1.7 0 0 0 3.2 0',
  sql: 'M4 4.5h12v11H4zM6.6 7.8l2.4 2.3-2.4 2.3M10.6 12.6h3',
  devices: 'M7 7h6v6H7zM10 3.5V7M10 13v3.5M3.5 10H7M13 10h3.5M5 5h10v10H5z',
  account: 'M10 10a3.2 3.2 0 1 0 0-6.4A3.2 3.2 0 0 0 10 10zM3.8 16.8c.6-3 3-4.6 6.2-4.6s5.6 1.6 6.2 4.6',
  people: 'M7.5 9.5a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM2.5 16.3c.4-2.9 2.2-4.4 5-4.4s4.6 1.5 5 4.4M13.2 4.4a2.6 2.6 0 0 1 0 5M14.6 12.2c1.7.6 2.7 2 2.9 4.1',
  close: 'M5.5 5.5l9 9M14.5 5.5l-9 9',
  plus: 'M10 4v12M4 10h12',
  minus: 'M4 10h12',
  check: 'M4 10.5l4 4 8-9',
  copy: 'M7.5 7.5H16V16H7.5zM12.5 7.5V4H4v8.5h3.5',
  trash: 'M4 6h12M8 6V4h4v2M5.5 6l.8 10.5h7.4L14.5 6',
  edit: 'M4 16l.8-3.4L13.2 4.2l2.6 2.6-8.4 8.4z',
  play: 'M6.5 4.5l8.5 5.5-8.5 5.5z',
  download: 'M10 3.5v9M6.3 9L10 12.7 13.7 9M4 16.5h12',
  mail: 'M3 5h14v10H3zM3.4 5.6L10 10.8l6.6-5.2',
  help: 'M7.4 7.6a2.6 2.6 0 1 1 3.9 2.3c-.9.5-1.3 1-1.3 2M10 14.8v.2',
  court: 'M8 16.5H3.5v-13h13v13H12M10 10.9a.9.9 0 1 0 0-1.8.9.9 0 0 0 0 1.8z',
  fit: 'M3.5 7.5v-4h4M12.5 3.5h4v4M16.5 12.5v4h-4M7.5 16.5h-4v-4',
  key: 'M7 13.2a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4zM10.2 10H17v3M14 10v2.2',
  live: 'M10 11.2a1.2 1.2 0 1 0 0-2.4 1.2 1.2 0 0 0 0 2.4zM6.8 13.2a4.5 4.5 0 0 1 0-6.4M13.2 6.8a4.5 4.5 0 0 1 0 6.4M4.6 15.4a7.6 7.6 0 0 1 0-10.8M15.4 4.6a7.6 7.6 0 0 1 0 10.8',
  comments: 'M3.5 4.5h13v9H9l-3.5 3v-3h-2zM6.5 7.8h7M6.5 10.4h4.5',
  jobs: 'M4 5.5h5M4 10h5M4 14.5h5M12.5 4l3.5 1.5-3.5 1.5zM12 10h4M12 14.5h4',
  letters: 'M3 5h14v10H3zM7.6 7.8l4.8 4.4M12.4 7.8l-4.8 4.4',
  replay: 'M15.6 10A5.6 5.6 0 1 1 14 6M14.4 3v3.4H11',
  chart: 'M3.5 3.5v13h13M6.5 12.5l3-4 2.6 2.2 3.9-5.2',
  up: 'M10 15.5v-11M5.5 9L10 4.5 14.5 9',
  back: 'M11.5 4.5L6 10l5.5 5.5',
};

/** @param {{ name: keyof typeof paths }} props */
export function Icon({ name }) {
  return html`<svg class="ico" viewBox="0 0 20 20" aria-hidden="true"><path d=${paths[name]} /></svg>`;
}

export function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path d="M12.5 27H5V5h22v22h-7.5" /><circle cx="16" cy="16" r="3.4" /></svg>`;
}
