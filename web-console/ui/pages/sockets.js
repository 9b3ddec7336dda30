import { html, useEffect, useState } from 'preact';
import * as api from '../api.js';
import { t } from '../i18n.js';
import { Confirm } from '../parts/dialog.js';
import { compact, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { Empty, Failed, Loading, toast } from '../parts/notices.js';

/** What is live is asked for again at this pace, while somebody looks. */
const PACE_MS = 2000;
const SHOWN_MAX = 500;

const ask = async () => {
  const [connections, topics, queues, sessions] = await Promise.all([api.all(api.connections, SHOWN_MAX), api.all(api.topics, SHOWN_MAX), api.all(api.queues, SHOWN_MAX), api.all(api.mqttSessions, SHOWN_MAX)]);
  return { connections, topics, queues, sessions };
};

export default function SocketsPage() {
  const { data, error, again } = useLoad(ask, []);
  const [closing, setClosing] = useState(/** @type {api.Connection | null} */ (null));
  useEffect(() => {
    const timer = setInterval(() => document.hidden || again(), PACE_MS);
    return () => clearInterval(timer);
  }, [again]);
  return html`<div class="page">
    <header class="head"><h1>${t('sockets.title')}</h1></header>
    <p class="faint">${t('sockets.text')}</p>
    ${error && html`<${Failed} error=${error} retry=${again} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data &&
    html`<h2>${t('sockets.connections')} <span class="badge" data-test="sockets-count" data-count=${data.connections.length}>${compact(data.connections.length)}</span></h2>
      ${data.connections.length === 0 ? html`<${Empty} title=${t('sockets.none')} text=${t('sockets.none-text')} />` : html`<${Connections} items=${data.connections} onClose=${setClosing} />`}
      ${data.topics.length > 0 && html`<h2>${t('sockets.topics')}</h2><${Topics} items=${data.topics} />`}
      ${data.queues.length > 0 && html`<h2>${t('sockets.queues')}</h2><${Queues} items=${data.queues} />`}
      ${data.sessions.length > 0 && html`<h2>${t('sockets.sessions')}</h2><p class="faint">${t('sockets.sessions-text')}</p><${Sessions} items=${data.sessions} />`}`}
    ${closing &&
    html`<${Confirm} title=${t('sockets.close-title', { name: closing.name })} text=${t('sockets.close-text')} action=${t('sockets.close')} onClose=${() => setClosing(null)} run=${async () => {
      await api.closeConnection(closing.id);
      toast(t('sockets.closed', { name: closing.name }));
      await again();
    }} />`}
  </div>`;
}

/** @param {{ items: api.Connection[], onClose: (connection: api.Connection) => void }} props */
function Connections({ items, onClose }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('sockets.connections')}>
    <table data-test="sockets-list">
      <thead><tr><th>${t('sockets.who')}</th><th>${t('sockets.since')}</th><th>${t('sockets.subscriptions')}</th><th>${t('sockets.sent')}</th><th>${t('sockets.waiting')}</th><th class="hide-text">${t('action.title')}</th></tr></thead>
      <tbody>
        ${items.map(
          (one) => html`<tr key=${one.id} data-test=${`connection-${one.id}`}>
            <td><b>${one.name}</b><span class="faint small block mono">${one.peer} · STOMP ${one.version}</span></td>
            <td><${Time} at=${one.since} form="ago" /></td>
            <td>${compact(one.subscriptions)}</td>
            <td>${compact(one.sent)} / ${compact(one.received)}</td>
            <td>${compact(one.waiting_bytes)} B</td>
            <td class="actions"><button type="button" class="icon" data-test="connection-close" aria-label=${t('sockets.close-title', { name: one.name })} title=${t('sockets.close')} onClick=${() => onClose(one)}><${Icon} name="close" /></button></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** @param {{ items: api.Topic[] }} props */
function Topics({ items }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('sockets.topics')}>
    <table data-test="topics-list">
      <thead><tr><th>${t('sockets.destination')}</th><th>${t('sockets.subscribers')}</th><th>${t('sockets.messages')}</th></tr></thead>
      <tbody>
        ${items.map((one) => html`<tr key=${one.destination}><td class="mono">${one.destination}</td><td>${compact(one.subscribers)}</td><td>${compact(one.messages)}</td></tr>`)}
      </tbody>
    </table>
  </div>`;
}

/** @param {{ items: api.Queue[] }} props */
function Queues({ items }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('sockets.queues')}>
    <table data-test="queues-list">
      <thead><tr><th>${t('sockets.destination')}</th><th>${t('sockets.messages')}</th><th>${t('sockets.unacknowledged')}</th><th>${t('sockets.consumers')}</th></tr></thead>
      <tbody>
        ${items.map((one) => html`<tr key=${one.name}><td class="mono">/queue/${one.name}</td><td>${compact(one.messages)}</td><td>${compact(one.unacknowledged)}</td><td>${compact(one.consumers)}</td></tr>`)}
      </tbody>
    </table>
  </div>`;
}

/** @param {{ items: api.MqttSession[] }} props */
function Sessions({ items }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${t('sockets.sessions')}>
    <table data-test="mqtt-sessions-list">
      <thead><tr><th>${t('sockets.client')}</th><th>${t('sockets.state')}</th><th>${t('sockets.subscriptions')}</th><th>${t('sockets.waiting')}</th><th>${t('sockets.missed')}</th></tr></thead>
      <tbody>
        ${items.map(
          (one) => html`<tr key=${one.client} data-test="mqtt-session" data-missed=${one.missed}>
            <td><b class="mono">${one.client}</b><span class="faint small block">${one.name}</span></td>
            <td>${one.connected ? t('sockets.is-connected') : t('sockets.is-away')}</td>
            <td>${compact(one.subscriptions)}</td>
            <td>${compact(one.waiting)} (${compact(one.waiting_bytes)} B)</td>
            <td>${compact(one.missed)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
