import { html, useEffect, useRef, useState } from 'preact';
import { language, t } from '../i18n.js';
import { colour, palette } from '../theme.js';
import { dateText, measured, number } from './format.js';
import { complain } from './notices.js';
import { style } from './styles.js';

/** @typedef {[number[], ...(number | null)[][]]} Points times in seconds, and the values of each line */
/** @typedef {{ label: string, unit?: string | null }} Drawn */

/** Lines that are told apart by colour; more of them begin again, dashed. */
export const TONES = 6;

const DAY = 86400;

/** @param {number} step seconds between two marks @returns {Intl.DateTimeFormatOptions} */
function markForm(step) {
  if (step >= 28 * DAY) return { year: 'numeric', month: 'short' };
  if (step >= DAY) return { month: 'short', day: 'numeric' };
  if (step >= 60) return { hour: '2-digit', minute: '2-digit' };
  return { hour: '2-digit', minute: '2-digit', second: '2-digit' };
}

/**
 * @param {number[]} marks
 * @param {number} step
 */
function markTexts(marks, step) {
  let before = '';
  return marks.map((mark) => {
    const date = new Date(mark * 1000);
    const text = dateText(date, markForm(step));
    if (step >= DAY) return text;
    const day = dateText(date, { month: 'short', day: 'numeric' });
    const first = day !== before;
    before = day;
    return first ? `${text}\n${day}` : text;
  });
}

/**
 * @param {HTMLElement} into
 * @param {Drawn[]} lines the first unit is on the left, the next one on the right
 * @param {(idx: number | null | undefined) => void} onCursor
 */
function options(into, lines, onCursor) {
  const [ink, line, accent] = [colour('--ink-2'), colour('--line'), colour('--accent')];
  const font = `11px ${getComputedStyle(into).fontFamily}`;
  const axis = { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 } };
  const units = [...new Set(lines.map(({ unit }) => unit ?? ''))];
  const scale = (/** @type {string} */ unit) => `y${units.indexOf(unit)}`;
  const alone = lines.length === 1;
  return {
    width: into.clientWidth,
    height: into.clientHeight,
    padding: [10, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: true, y: false }, points: { size: 7, ...(alone ? { fill: accent } : {}) } },
    scales: { x: { time: true } },
    hooks: { setCursor: [(/** @type {import('uplot').default} */ plot) => onCursor(plot.cursor.idx)] },
    axes: [
      {
        ...axis,
        space: 64,
        size: 38,
        values: (/** @type {unknown} */ _plot, /** @type {number[]} */ marks, /** @type {number} */ _axis, /** @type {number} */ _space, /** @type {number} */ step) => markTexts(marks, step),
      },
      ...units.slice(0, 2).map((unit, side) => ({
        ...axis,
        size: 52,
        scale: scale(unit),
        side: side === 0 ? 3 : 1,
        grid: { ...axis.grid, show: side === 0 },
        values: (/** @type {unknown} */ _plot, /** @type {number[]} */ marks) => marks.map((mark) => measured(mark, short(unit))),
      })),
    ],
    series: [
      {},
      ...lines.map(({ unit }, i) => ({
        stroke: alone ? accent : colour(`--tone-${i % TONES}`),
        width: 1.6,
        ...(alone ? { fill: colour('--accent-fill') } : {}),
        ...(i >= TONES ? { dash: [6, 4] } : {}),
        scale: scale(unit ?? ''),
        points: { show: false },
        spanGaps: true,
      })),
    ],
  };
}

/** A long unit stands in the heading only. @param {string | null | undefined} unit */
const short = (unit) => (unit && unit.length <= 2 ? unit : null);

/**
 * Values over time; new points move it without drawing it anew.
 * @param {{ points: Points, lines: Drawn[], label: string }} props
 */
export function Chart({ points, lines, label }) {
  const into = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {import('uplot').default | null} */ (null));
  const newest = useRef(points);
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  newest.current = points;

  useEffect(() => {
    let gone = false;
    const element = /** @type {HTMLDivElement} */ (into.current);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: element.clientHeight }));
    (async () => {
      const [{ default: UPlot }] = await Promise.all([import('uplot'), style('/vendor/uplot.css')]);
      if (gone) return;
      plot.current = new UPlot(
        options(element, lines, (idx) => setAt(idx ?? null)),
        newest.current,
        element,
      );
      observer.observe(element);
    })().catch(complain);
    return () => {
      gone = true;
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [palette.value, language.value, lines.map(({ unit }) => unit ?? '').join()]);

  useEffect(() => plot.current?.setData(points), [points]);

  const [times, ...rows] = points;
  const last = times.length - 1;
  const shown = at !== null && at <= last ? at : last;
  const values = rows.map((row) => before(row, shown));
  const text = (/** @type {number} */ i) => (values[i] === null ? '–' : measured(values[i], lines[i].unit));
  return html`<figure class="chart" data-test="chart" data-points=${times.length}>
    <figcaption>
      ${lines.length === 1 && html`<strong>${text(0)}</strong>`}
      ${lines.length > 1 && html`<ul class="legend">${lines.map((line, i) => html`<li><i class=${`tone-${i % TONES}`} aria-hidden="true"></i>${line.label} <b>${text(i)}</b></li>`)}</ul>`}
      <span class="faint">${shown >= 0 ? dateText(new Date(times[shown] * 1000), { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' }) : ''}</span>
    </figcaption>
    <div class="plot" ref=${into} role="img" aria-label=${lines.length === 1 ? summary(label, rows[0], lines[0].unit) : `${label}. ${lines.map((line, i) => summary(line.label, rows[i], line.unit)).join('. ')}`}></div>
    <p class="faint small"><span data-test="chart-points" data-count=${times.length}>${t('chart.points', { count: number(times.length) })}</span></p>
  </figure>`;
}

/** The value of a line at a point, or the last one before it: each line has points of its own. @param {(number | null)[]} row @param {number} at */
function before(row, at) {
  while (at >= 0 && row[at] === null) at -= 1;
  return at < 0 ? null : /** @type {number} */ (row[at]);
}

/** @param {string} label @param {(number | null)[]} row @param {string | null | undefined} unit */
function summary(label, row, unit) {
  const values = row.filter((value) => value !== null);
  if (values.length === 0) return t('chart.none', { label });
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return t('chart.summary', { label, count: values.length, low: measured(low, unit), high: measured(high, unit) });
}

/**
 * How often something happened over time.
 * @param {{ times: number[], from: number, to: number, label: string }} props milliseconds
 */
export function Bars({ times, from, to, label }) {
  const BARS = 60;
  const counts = new Array(BARS).fill(0);
  for (const time of times) {
    const place = Math.floor(((time - from) / (to - from)) * BARS);
    counts[Math.max(0, Math.min(BARS - 1, place))] += 1;
  }
  const most = Math.max(1, ...counts);
  const text = (/** @type {number} */ ms) =>
    dateText(new Date(ms), to - from > 60 * DAY * 1000 ? { year: 'numeric', month: 'short', day: 'numeric' } : { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
  return html`<figure class="bars">
    <svg viewBox="0 0 600 72" preserveAspectRatio="none" role="img" aria-label=${label}>
      <line x1="0" y1="71.5" x2="600" y2="71.5" class="base" />
      ${counts.map((count, i) => {
        const height = count === 0 ? 0 : Math.max(4, (count / most) * 68);
        return count > 0 && html`<rect x=${i * 10 + 1.5} y=${71 - height} width="7" height=${height}><title>${text(from + ((to - from) * i) / BARS)}: ${number(count)}</title></rect>`;
      })}
    </svg>
    <figcaption class="faint small"><span>${text(from)}</span><span>${text(to)}</span></figcaption>
  </figure>`;
}

/**
 * A line without axes.
 * @param {{ values: number[], label: string }} props
 */
export function Spark({ values, label }) {
  const high = Math.max(1e-9, ...values);
  const points = values.map((value, i) => `${(i / Math.max(1, values.length - 1)) * 100},${27 - (value / high) * 24}`).join(' ');
  return html`<svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" role="img" aria-label=${label}><polyline points=${points} /></svg>`;
}
