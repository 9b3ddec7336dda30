// Readings of the past from a file, in parts that fit a request.
import { importReadings } from './api.js';
import { t } from './i18n.js';
import { number } from './parts/format.js';

const LINES_MAX = 5000;
const CHARACTERS_MAX = 200000;

/** The lines of a table; a field in quotation marks may go over several. @param {string} text */
function linesOf(text) {
  /** @type {string[]} */
  const lines = [];
  /** @type {string[]} */
  let open = [];
  let isOpen = false;
  for (const line of text.split(/\r?\n/)) {
    if ((line.split('"').length - 1) % 2 === 1) isOpen = !isOpen;
    open.push(line);
    if (isOpen) continue;
    if (open.length > 1 || line !== '') lines.push(open.join('\n'));
    open = [];
  }
  if (open.length > 0) lines.push(open.join('\n'));
  return lines;
}

/**
 * Takes a whole table and says what became of it. Times without an offset are those of the browser's zone.
 * @param {string} text
 */
export async function importTable(text) {
  const [heading, ...lines] = linesOf(text);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  let [accepted, refused, before, at, reason] = [0, 0, 0, 0, ''];
  do {
    let end = at;
    let size = 0;
    while (end < lines.length && end - at < LINES_MAX && size < CHARACTERS_MAX) size += lines[end++].length;
    const answer = await importReadings({ csv: [heading, ...lines.slice(at, end)].join('\n'), zone }).catch((problem) => {
      throw accepted === 0 ? problem : new Error(`${t('devices.readings-imported', { accepted: number(accepted), refused: number(refused) })} ${problem.message}`);
    });
    if (reason === '' && answer.reasons[0]) reason = t('devices.readings-first', { number: number(before + answer.reasons[0].index + 1), reason: answer.reasons[0].reason });
    accepted += answer.accepted;
    refused += answer.refused;
    before += answer.accepted + answer.empty + answer.refused;
    at = end;
  } while (at < lines.length);
  return [t('devices.readings-imported', { accepted: number(accepted), refused: number(refused) }), reason].filter(Boolean).join(' ');
}
