import { h, html, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Copyable, Field, Form, textOf } from '../parts/form.js';
import { number, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad, usePages } from '../parts/load.js';
import { complain, Empty, Failed, Loading, toast } from '../parts/notices.js';
import { Tabs } from '../parts/tabs.js';
import { route } from '../router.js';

const PAGE_ITEMS = 50;
/** @type {api.JobState[]} */
const STATES = ['scheduled', 'ready', 'limited', 'waiting', 'running', 'done', 'dead', 'cancelled', 'skipped', 'discarded'];
/** @type {Record<string, string>} */
const TONES = { done: 'sent', succeeded: 'sent', dead: 'failed', failed: 'failed', running: 'waiting', ready: 'waiting' };

/** The words of the API. @returns {Record<string, string>} */
const words = () => ({
  scheduled: t('jobs.scheduled'),
  ready: t('jobs.ready'),
  limited: t('jobs.limited'),
  waiting: t('jobs.waiting'),
  running: t('jobs.running'),
  done: t('jobs.done'),
  dead: t('jobs.dead'),
  cancelled: t('jobs.cancelled'),
  skipped: t('jobs.skipped'),
  discarded: t('jobs.discarded'),
  succeeded: t('jobs.succeeded'),
  failed: t('jobs.failed'),
  early: t('jobs.early'),
  lost: t('jobs.lost'),
  interrupted: t('jobs.interrupted'),
  urgent: t('jobs.urgent'),
  high: t('jobs.high'),
  normal: t('jobs.normal'),
  low: t('jobs.low'),
});

/** @returns {Record<string, string>} */
const missed = () => ({ once: t('jobs.missed-once'), all: t('jobs.missed-all'), skip: t('jobs.missed-skip') });

/** @returns {Record<string, string>} */
const fields = () => ({
  name: t('jobs.field-name'),
  kind: t('jobs.field-kind'),
  cron: t('jobs.field-cron'),
  zone: t('jobs.field-zone'),
  payload: t('jobs.field-payload'),
  missed: t('jobs.field-missed'),
});

/** @param {{ state: string }} props */
const Badge = ({ state }) => html`<span class=${`badge ${TONES[state] ?? ''}`}>${words()[state]}</span>`;

/**
 * Does something to a job and says so.
 * @param {() => Promise<unknown>} deed @param {string} done @param {() => Promise<void>} again
 */
async function run(deed, done, again) {
  try {
    await deed();
    toast(done);
  } catch (problem) {
    complain(problem);
  }
  await again();
}

export default function JobsPage() {
  const part = route.value.parts[1] ?? '';
  return html`<div class="page">
    <header class="head"><h1>${t('jobs.title')}</h1></header>
    <${Tabs} label=${t('jobs.title')} tabs=${[
      { path: '/jobs', text: t('jobs.title'), test: 'tab-jobs' },
      { path: '/jobs/runs', text: t('jobs.runs'), test: 'tab-runs' },
      { path: '/jobs/schedules', text: t('jobs.schedules'), test: 'tab-schedules' },
      { path: '/jobs/queues', text: t('jobs.queues'), test: 'tab-queues' },
    ]} />
    ${part === '' && html`<${JobsTab} />`}
    ${part === 'runs' && html`<${Runs} />`}
    ${part === 'schedules' && html`<${Schedules} />`}
    ${part === 'queues' && html`<${Queues} />`}
  </div>`;
}

function JobsTab() {
  const [state, setState] = useState(/** @type {api.JobState | ''} */ (''));
  const { data } = useLoad(api.jobsOverview, [state]);
  const count = (/** @type {api.JobState} */ name) => (data ? ` (${number(data.states[name] ?? 0, 0)})` : '');
  return html`<p class="faint">${t('jobs.text')}</p>
    <div class="filters">
      <${Field} label=${t('jobs.state')} input=${(/** @type {string} */ id) => html`<select id=${id} data-test="jobs-state" value=${state} onChange=${(/** @type {Event} */ event) => setState(/** @type {api.JobState | ''} */ (textOf(event)))}>
        <option value="">${t('dead.any')}</option>
        ${STATES.map((name) => html`<option value=${name}>${words()[name]}${count(name)}</option>`)}
      </select>`} />
    </div>
    <${JobList} key=${state} state=${state || undefined} />`;
}

/** @param {{ state?: api.JobState }} props */
function JobList({ state }) {
  const { items, next, error, busy, more, again } = usePages((page) => api.jobs({ state, ...page }), PAGE_ITEMS);
  const [shown, setShown] = useState(/** @type {string | null} */ (null));
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`${error && html`<${Failed} error=${error} retry=${again} />`}
    <div class="above"><button type="button" data-test="jobs-again" disabled=${busy} onClick=${again}><${Icon} name="replay" />${t('jobs.again')}</button></div>
    ${items.length === 0 && html`<${Empty} title=${state ? t('dead.none-match') : t('jobs.none')} text=${t('jobs.none-text')} />`}
    ${items.length > 0 && html`<${JobTable} jobs=${items} onShow=${setShown} again=${again} />`}
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
    ${shown && h(Details, { key: shown, id: shown, onClose: () => setShown(null), onDone: again })}`;
}

/** @param {{ jobs: api.Job[], onShow: (id: string) => void, again: () => Promise<void> }} props */
function JobTable({ jobs, onShow, again }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('jobs.title')}>
    <table class="letters" data-test="jobs-list">
      <thead><tr><th>${t('jobs.state')}</th><th>${t('jobs.job')}</th><th>${t('jobs.due')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
      <tbody>
        ${jobs.map(
          (job) => html`<tr key=${job.id} data-test=${`job-${job.id}`} data-state=${job.state}>
            <td><${Badge} state=${job.state} /><span class="small block">${job.queue}</span></td>
            <td><button type="button" class="linkish" data-test="job-show" onClick=${() => onShow(job.id)}>${job.task ? `${job.task} · ${job.kind}` : job.kind}</button>
              <code class="payload faint">${job.last_error ?? job.payload}</code></td>
            <td><${Time} at=${job.due} /><span class="faint small block">${t('dead.attempts', { count: job.attempts })}</span></td>
            <td class="actions"><${Deeds} job=${job} again=${again} /></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** @param {{ job: api.Job, again: () => Promise<void> }} props */
function Deeds({ job, again }) {
  const [discarding, setDiscarding] = useState(false);
  const isOpen = ['scheduled', 'ready', 'limited', 'waiting', 'running'].includes(job.state);
  return html`${['dead', 'cancelled', 'discarded'].includes(job.state) && html`<button type="button" data-test="job-retry" onClick=${() => run(() => api.retryJob(job.id), t('jobs.retried'), again)}><${Icon} name="replay" />${t('jobs.retry')}</button>`}
    ${job.state === 'scheduled' && html`<button type="button" data-test="job-run" onClick=${() => run(() => api.runJobNow(job.id), t('jobs.begun'), again)}><${Icon} name="play" />${t('jobs.run')}</button>`}
    ${isOpen && !job.cancelling && html`<button type="button" class="icon" data-test="job-cancel" aria-label=${t('jobs.cancel')} title=${t('jobs.cancel')} onClick=${() => run(() => api.cancelJob(job.id), t('jobs.stopped'), again)}><${Icon} name="close" /></button>`}
    ${job.cancelling && html`<span class="faint small">${t('jobs.cancelling')}</span>`}
    ${job.state === 'dead' && html`<button type="button" class="icon" data-test="job-discard" aria-label=${t('dead.discard')} title=${t('dead.discard')} onClick=${() => setDiscarding(true)}><${Icon} name="trash" /></button>`}
    ${discarding &&
    html`<${Confirm} title=${t('jobs.discard-title')} text=${t('jobs.discard-text')} action=${t('dead.discard')} onClose=${() => setDiscarding(false)} run=${async () => {
      await api.discardJob(job.id);
      await again();
    }} />`}`;
}

/** @param {{ id: string, onClose: () => void, onDone: () => Promise<void> }} props */
function Details({ id, onClose, onDone }) {
  const { data, error, again } = useLoad(() => api.job(id), [id]);
  const both = async () => {
    await again();
    await onDone();
  };
  return html`<${Dialog} title=${data?.job.kind ?? t('jobs.job')} wide=${true} test="job-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`${data.job.last_error && html`<div class="notice bad" data-test="job-error"><p>${data.job.last_error}</p></div>`}
      <dl class="facts">
        <dt>${t('jobs.state')}</dt><dd data-test="job-state" data-state=${data.job.state}><${Badge} state=${data.job.state} /></dd>
        <dt>${t('jobs.queue')}</dt><dd>${data.job.queue} · ${words()[data.job.priority]}</dd>
        <dt>${t('jobs.due')}</dt><dd><${Time} at=${data.job.due} /></dd>
        ${data.job.finished && html`<dt>${t('jobs.finished')}</dt><dd><${Time} at=${data.job.finished} /></dd>`}
        ${data.job.key && html`<dt>${t('dead.key')}</dt><dd><code>${data.job.key}</code></dd>`}
        ${data.job.run && html`<dt>${t('jobs.one-run')}</dt><dd><a href="#/jobs/runs">${data.job.task}</a></dd>`}
        <dt>${t('dead.id')}</dt><dd><code>${data.job.id}</code></dd>
      </dl>
      <${Copyable} label=${t('dead.payload')} text=${data.job.payload} test="job-payload" />
      ${data.attempts.length > 0 && html`<h3>${t('jobs.attempts')}</h3>`}
      <ol class="cards" data-test="job-attempts">
        ${data.attempts.map(
          (attempt) => html`<li key=${attempt.number} value=${attempt.number}><div class="text">
            <p><b>${attempt.number}</b> <${Badge} state=${attempt.outcome} /> <${Time} at=${attempt.began} /> · ${t('jobs.took', { seconds: number((Date.parse(attempt.ended) - Date.parse(attempt.began)) / 1000, 3) })}</p>
            ${attempt.error && html`<p class="bad">${attempt.error}</p>`}
            ${attempt.log && html`<pre class="small" tabindex="0">${attempt.log}</pre>`}
          </div></li>`,
        )}
      </ol>
      <footer><${Deeds} job=${data.job} again=${both} /></footer>`}
  <//>`;
}

function Runs() {
  const { items, next, error, busy, more, again } = usePages(api.jobRuns, PAGE_ITEMS);
  const [shown, setShown] = useState(/** @type {string | null} */ (null));
  if (!items) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`${items.length === 0 && html`<${Empty} title=${t('jobs.no-runs')} text=${t('jobs.no-runs-text')} />`}
    <ul class="cards" data-test="runs-list">
      ${items.map(
        (one) => html`<li key=${one.id} data-state=${one.state}><div class="text">
          <h2><button type="button" class="linkish" data-test="run-show" onClick=${() => setShown(one.id)}>${one.name}</button></h2>
          <p><${Badge} state=${one.state} /> <${Time} at=${one.created} /> · ${Object.entries(one.tasks).map(([state, count]) => `${words()[state]} ${number(count, 0)}`).join(', ')}</p>
        </div></li>`,
      )}
    </ul>
    ${next && html`<p><button type="button" disabled=${busy} onClick=${more}>${t('action.more')}</button></p>`}
    ${shown && h(RunDetails, { key: shown, id: shown, onClose: () => setShown(null), onDone: again })}`;
}

/** @param {{ id: string, onClose: () => void, onDone: () => Promise<void> }} props */
function RunDetails({ id, onClose, onDone }) {
  const { data, error, again } = useLoad(() => api.jobRun(id), [id]);
  const [shown, setShown] = useState(/** @type {string | null} */ (null));
  const both = async () => {
    await again();
    await onDone();
  };
  const before = (/** @type {string | null} */ name) => (data?.edges ?? []).filter((edge) => edge.after === name).map((edge) => edge.before);
  return html`<${Dialog} title=${data?.run.name ?? t('jobs.one-run')} wide=${true} test="run-dialog" onClose=${onClose}>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<p><${Badge} state=${data.run.state} /> <${Time} at=${data.run.created} /></p>
      <ul class="cards" data-test="run-tasks">
        ${data.tasks.map(
          (task) => html`<li key=${task.id} data-test=${`task-${task.task}`} data-state=${task.state}><div class="text">
            <p><${Badge} state=${task.state} /> <button type="button" class="linkish" onClick=${() => setShown(task.id)}>${task.task}</button>
              ${before(task.task).length > 0 && html`<span class="faint">${t('jobs.after', { tasks: before(task.task).join(', ') })}</span>`}</p>
            ${task.last_error && html`<p class="small">${task.last_error}</p>`}
          </div><div class="row"><${Deeds} job=${task} again=${both} /></div></li>`,
        )}
      </ul>`}
    ${shown && h(Details, { key: shown, id: shown, onClose: () => setShown(null), onDone: both })}
  <//>`;
}

function Schedules() {
  const { data, error, again } = useLoad(() => api.all(api.jobSchedules), []);
  const kinds = useLoad(api.jobsOverview, []).data?.kinds ?? [];
  const [open, setOpen] = useState(/** @type {{ add: true } | { remove: api.JobSchedule } | null} */ (null));
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`<div class="above"><button type="button" class="primary" data-test="schedule-new" disabled=${kinds.length === 0} onClick=${() => setOpen({ add: true })}><${Icon} name="plus" />${t('jobs.new-schedule')}</button></div>
    ${data.length === 0 && html`<${Empty} title=${t('jobs.no-schedules')} />`}
    <ul class="cards" data-test="schedules-list">
      ${data.map(
        (one) => html`<li key=${one.name} class=${one.paused ? 'off' : ''} data-test=${`schedule-${one.name}`}>
          <button type="button" role="switch" class="switch" aria-checked=${!one.paused} aria-label=${t('jobs.runs-schedule', { name: one.name })} data-test="schedule-switch" onClick=${() => run(() => (one.paused ? api.resumeJobSchedule(one.name) : api.pauseJobSchedule(one.name)), one.paused ? t('jobs.resumed', { name: one.name }) : t('jobs.paused-now', { name: one.name }), again)}></button>
          <div class="text">
            <h2>${one.name}</h2>
            <p><code>${one.cron}</code> ${one.zone} · ${one.kind} · ${missed()[one.missed]}</p>
            <p class="faint">${one.next && html`${t('jobs.next')} <${Time} at=${one.next} />`} ${one.last && html`${t('jobs.last')} <${Time} at=${one.last} />`}</p>
          </div>
          ${!one.built_in && html`<div class="row"><button type="button" class="icon" data-test="schedule-delete" aria-label=${t('action.delete')} title=${t('action.delete')} onClick=${() => setOpen({ remove: one })}><${Icon} name="trash" /></button></div>`}
        </li>`,
      )}
    </ul>
    ${open && 'add' in open && h(ScheduleForm, { kinds, onClose: () => setOpen(null), onDone: () => { setOpen(null); void again(); } })}
    ${open &&
    'remove' in open &&
    html`<${Confirm} title=${t('jobs.delete-schedule', { name: open.remove.name })} text=${t('jobs.delete-schedule-text')} action=${t('action.delete')} onClose=${() => setOpen(null)} run=${async () => {
      await api.deleteJobSchedule(open.remove.name);
      await again();
    }} />`}`;
}

/** @param {{ kinds: string[], onClose: () => void, onDone: () => void }} props */
function ScheduleForm({ kinds, onClose, onDone }) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC';
  const [body, setBody] = useState(/** @type {api.NewJobSchedule} */ ({ name: '', kind: kinds[0] ?? '', cron: '0 9 * * *', zone, payload: '{}', missed: 'once' }));
  const input = (/** @type {keyof api.NewJobSchedule} */ key, /** @type {string | undefined} */ hint) =>
    h(Field, {
      label: fields()[key],
      hint,
      input: (id, note) => html`<input id=${id} aria-describedby=${note} required spellcheck=${false} autocomplete="off" data-test=${`schedule-${key}`} value=${body[key]} onInput=${(/** @type {Event} */ event) => setBody({ ...body, [key]: textOf(event) })} />`,
    });
  const select = (/** @type {'kind' | 'missed'} */ key, /** @type {[string, string][]} */ options) =>
    h(Field, {
      label: fields()[key],
      input: (id) => html`<select id=${id} data-test=${`schedule-${key}`} value=${body[key]} onChange=${(/** @type {Event} */ event) => setBody(/** @type {api.NewJobSchedule} */ ({ ...body, [key]: textOf(event) }))}>
        ${options.map(([value, text]) => html`<option value=${value}>${text}</option>`)}
      </select>`,
    });
  const send = async () => {
    await api.createJobSchedule({ ...body, name: body.name.trim() });
    onDone();
  };
  return h(Dialog, {
    title: t('jobs.new-schedule'),
    onClose,
    test: 'schedule-dialog',
    children: h(Form, {
      send,
      action: t('action.save'),
      onCancel: onClose,
      test: 'schedule-save',
      errorTest: 'schedule-error',
      children: html`${input('name', t('jobs.name-hint'))}
        ${select('kind', kinds.map((kind) => [kind, kind]))}
        ${input('cron', t('jobs.cron-hint'))}
        ${input('zone')}
        ${input('payload')}
        ${select('missed', /** @type {[string, string][]} */ (Object.entries(missed())))}`,
    }),
  });
}

function Queues() {
  const { data, error, again } = useLoad(api.jobsOverview, []);
  if (!data) return error ? html`<${Failed} error=${error} retry=${again} />` : html`<${Loading} />`;
  return html`<ul class="cards" data-test="queues-list">
    ${data.queues.map((queue) => {
      const isPaused = queue.state === 'paused';
      const turn = () => run(() => (isPaused ? api.resumeJobQueue(queue.name) : api.pauseJobQueue(queue.name)), isPaused ? t('jobs.resumed', { name: queue.name }) : t('jobs.paused-now', { name: queue.name }), again);
      return html`<li key=${queue.name} class=${isPaused ? 'off' : ''} data-test=${`queue-${queue.name}`} data-state=${queue.state}>
        <button type="button" role="switch" class="switch" aria-checked=${!isPaused} aria-label=${t('jobs.runs-queue', { name: queue.name })} data-test="queue-switch" onClick=${turn}></button>
        <div class="text">
          <h2>${queue.name}</h2>
          <p>${t('jobs.ready-count', { count: queue.ready })} ${queue.oldest && html`· ${t('jobs.oldest')} <${Time} at=${queue.oldest} />`}</p>
        </div>
      </li>`;
    })}
  </ul>`;
}
