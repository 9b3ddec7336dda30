import { divIcon, latLngBounds, marker } from 'leaflet';
import { h, html, useEffect, useMemo, useRef, useState } from 'preact';
import { all, devices as listDevices } from '../api.js';
import { catalog, fetchCatalog, labelOf, unitOf } from '../catalog.js';
import { healthOf, HealthMark, useHealth } from '../health.js';
import { t } from '../i18n.js';
import { keep } from '../kept.js';
import { beat, fetchDevices, newcomer, newestOf, newestValue } from '../live.js';
import { baseMap } from '../parts/base-map.js';
import { textOf } from '../parts/form.js';
import { measured, Time } from '../parts/format.js';
import { Icon } from '../parts/icons.js';
import { useLoad } from '../parts/load.js';
import { complain, Empty, Failed, Loading } from '../parts/notices.js';
import { style } from '../parts/styles.js';
import { replace, route } from '../router.js';
import { palette } from '../theme.js';
import { DeviceForm } from './device-form.js';
import { DeviceValues } from './device-values.js';

/** @typedef {import('../api.js').Device} Device */
/** @typedef {import('leaflet').Position} Position */

/** @param {Device} device @returns {Position | null} */
const placeOf = (device) => (device.latitude === null || device.longitude === null ? null : [device.latitude, device.longitude]);

export default function MapPage() {
  const found = useLoad(fetchDevices, [newcomer.value]);
  const [shown, setShown] = useState('');
  const [within, setWithin] = useState(/** @type {Set<string> | null} */ (null));
  const [adding, setAdding] = useState(/** @type {{ latitude: number, longitude: number } | null} */ (null));
  const [filter, setFilter] = useState('');
  useEffect(() => {
    keep('seen-map', 'yes');
    fetchCatalog().catch(complain);
  }, []);
  useHealth();
  const list = found.data ?? [];
  const chosen = list.find((device) => device.name === route.value.query.get('device')) ?? null;
  const names = useMemo(() => valueNames(list), [catalog.value, found.data]);
  const value = names.includes(shown) ? shown : (names[0] ?? '');
  const choose = (/** @type {string | null} */ name) => replace(name ? `/map?device=${encodeURIComponent(name)}` : '/map');
  const listed = list.filter((device) => (!within || within.has(device.name)) && `${device.name} ${device.label ?? ''}`.toLowerCase().includes(filter.trim().toLowerCase()));

  return html`<div class=${`map-page ${chosen ? 'with-panel' : ''}`}>
    <h1 class="hidden">${t('nav.map')}</h1>
    <section class="map-list" aria-label=${t('map.list')}>
      <div class="tools">
        <input type="search" aria-label=${t('map.filter')} placeholder=${t('map.filter')} value=${filter} onInput=${(/** @type {Event} */ event) => setFilter(textOf(event))} data-test="map-filter" />
        <label class="inline"><span>${t('map.show')}</span>
          <select data-test="map-value" value=${value} onChange=${(/** @type {Event} */ event) => setShown(textOf(event))}>
            ${names.map((name) => html`<option value=${name}>${nameOfValue(list, name)}</option>`)}
          </select>
        </label>
      </div>
      ${found.error && html`<${Failed} error=${found.error} retry=${found.again} />`}
      ${!found.data && !found.error && html`<${Loading} />`}
      ${found.data && list.length === 0 && html`<${Empty} title=${t('devices.none')} text=${t('devices.none-text')} />`}
      ${found.data && list.length > 0 && listed.length === 0 && html`<p class="faint pad">${t('map.none-match')}</p>`}
      <${DeviceList} devices=${listed} value=${value} chosen=${chosen?.name ?? null} choose=${choose} />
    </section>
    <${Atlas} devices=${list} ready=${found.data !== undefined} value=${value} chosen=${chosen?.name ?? null} choose=${choose} within=${within} setWithin=${setWithin} add=${setAdding} />
    ${chosen && html`<${Panel} key=${chosen.name} device=${chosen} close=${() => choose(null)} />`}
    ${adding && h(DeviceForm, { at: adding, onClose: () => setAdding(null), onDone: async (name) => { setAdding(null); setWithin(null); await found.again(); choose(name); } })}
  </div>`;
}

/** Every value that a listed device can have, by its sensor types. @param {Device[]} list */
function valueNames(list) {
  const sensors = new Set(list.flatMap((device) => device.sensors));
  const names = (catalog.value ?? []).filter((sensor) => sensors.has(sensor.name)).flatMap((sensor) => sensor.values.map((value) => value.name));
  return [...new Set(names)];
}

/** @param {Device[]} list @param {string} name */
function nameOfValue(list, name) {
  const sensor = list.flatMap((device) => device.sensors).find((one) => catalog.value?.find((type) => type.name === one)?.values.some((value) => value.name === name));
  if (!sensor) return name;
  const unit = unitOf(sensor, name);
  return unit ? `${labelOf(sensor, name)} (${unit})` : labelOf(sensor, name);
}

/** @param {string} device @param {string} value */
function valueText(device, value) {
  const newest = newestValue(device, value);
  return newest ? measured(newest.number, unitOf(newest.reading.sensor, value)) : '–';
}

/** @param {{ devices: Device[], value: string, chosen: string | null, choose: (name: string) => void }} props */
function DeviceList({ devices, value, chosen, choose }) {
  void beat.value;
  void catalog.value;
  return html`<ul>
    ${devices.map((device) => {
      const newest = newestValue(device.name, value)?.reading ?? [...newestOf(device.name).values()][0];
      return html`<li key=${device.name}>
        <button type="button" aria-pressed=${device.name === chosen} data-test=${`station-${device.name}`} onClick=${() => choose(device.name)}>
          <span class="name"><b><${HealthMark} health=${healthOf(device)} brief=${true} test=${`health-${device.name}`} /> ${device.name}</b>${device.label && html`<span class="faint small">${device.label}</span>`}</span>
          <span class="now"><b>${valueText(device.name, value)}</b><span class="faint small">${newest ? html`<${Time} at=${newest.time} />` : t('devices.silent')}</span></span>
        </button>
        ${placeOf(device) === null && html`<p class="faint small nowhere">${t('map.nowhere')}</p>`}
      </li>`;
    })}
  </ul>`;
}

/**
 * @param {{ devices: Device[], ready: boolean, value: string, chosen: string | null, choose: (name: string) => void, within: Set<string> | null, setWithin: (names: Set<string> | null) => void, add: (at: { latitude: number, longitude: number }) => void }} props
 */
function Atlas({ devices, ready, value, chosen, choose, within, setWithin, add }) {
  const into = useRef(/** @type {HTMLElement | null} */ (null));
  const [atlas, setAtlas] = useState(/** @type {Awaited<ReturnType<typeof baseMap>> | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [placing, setPlacing] = useState(false);
  const markers = useRef(/** @type {Map<string, Pin>} */ (new Map()));
  const fitted = useRef(false);

  useEffect(() => {
    let gone = false;
    /** @type {(() => void) | undefined} */
    let end;
    (async () => {
      await style('/vendor/leaflet.css');
      if (gone) return;
      const made = await baseMap(/** @type {HTMLElement} */ (into.current));
      if (gone) {
        made.map.remove();
        return;
      }
      const observer = new ResizeObserver(() => made.map.invalidateSize());
      observer.observe(/** @type {HTMLElement} */ (into.current));
      end = () => {
        observer.disconnect();
        made.map.remove();
      };
      setAtlas(made);
    })().catch((problem) => gone || setError(problem));
    return () => {
      gone = true;
      end?.();
    };
  }, []);

  useEffect(() => atlas?.paint(), [atlas, palette.value]);

  const fit = () => {
    const places = devices.map(placeOf).filter((place) => place !== null);
    if (atlas && places.length > 0) atlas.map.fitBounds(latLngBounds(places), { padding: [70, 70], maxZoom: 11, animate: false });
  };

  useEffect(() => {
    if (!atlas || !ready) return;
    const known = new Set(devices.map((device) => device.name));
    for (const [name, pin] of markers.current) {
      if (known.has(name)) continue;
      pin.marker.remove();
      markers.current.delete(name);
    }
    for (const device of devices) {
      const place = placeOf(device);
      if (!place) continue;
      const pin = markers.current.get(device.name);
      if (pin) pin.marker.setLatLng(place);
      else markers.current.set(device.name, new Pin(atlas.map, device, place, choose));
    }
    if (!fitted.current && markers.current.size > 0) {
      fitted.current = true;
      fit();
    }
    spread(atlas.map, markers.current, chosen);
  }, [atlas, devices, ready]);

  useEffect(() => {
    if (!atlas) return () => {};
    const run = () => spread(atlas.map, markers.current, chosen);
    atlas.map.on('zoomend moveend resize', run);
    run();
    return () => void atlas.map.off('zoomend moveend resize', run);
  }, [atlas, chosen, value, devices]);

  useEffect(() => {
    for (const [name, pin] of markers.current) pin.choose(name === chosen);
    const pin = chosen ? markers.current.get(chosen) : undefined;
    if (atlas && pin) {
      const { lat, lng } = pin.marker.getLatLng();
      // The panel has just taken its share of the width.
      atlas.map.invalidateSize();
      atlas.map.panInside([lat, lng], { paddingTopLeft: [60, 80], paddingBottomRight: [150, 60], animate: false });
    }
  }, [atlas, chosen, devices]);

  void catalog.value;
  const now = beat.value;
  useEffect(() => {
    for (const [name, pin] of markers.current) pin.show(valueText(name, value), newestValue(name, value)?.reading.time ?? '');
  }, [now, value, atlas, devices, catalog.value]);
  const tones = devices.map((device) => healthOf(device)?.state ?? '').join();
  useEffect(() => {
    for (const device of devices) markers.current.get(device.name)?.tone(healthOf(device)?.state ?? '');
  }, [tones, atlas, devices]);

  useEffect(() => {
    if (!atlas || !placing) return () => {};
    const onClick = (/** @type {import('leaflet').LeafletMouseEvent} */ { latlng }) => {
      setPlacing(false);
      add({ latitude: Math.round(latlng.lat * 1e5) / 1e5, longitude: Math.round((((latlng.lng + 540) % 360) - 180) * 1e5) / 1e5 });
    };
    const onKey = (/** @type {KeyboardEvent} */ event) => event.key === 'Escape' && setPlacing(false);
    atlas.map.on('click', onClick);
    addEventListener('keydown', onKey);
    return () => {
      atlas.map.off('click', onClick);
      removeEventListener('keydown', onKey);
    };
  }, [atlas, placing]);

  const toggleWithin = async () => {
    if (within || !atlas) {
      setWithin(null);
      return;
    }
    const view = atlas.map.getBounds();
    const box = { left: view.getWest(), right: view.getEast(), up: view.getNorth(), down: view.getSouth() };
    try {
      const inside = await all((page) => listDevices({ ...box, ...page }));
      setWithin(new Set(inside.map((device) => device.name)));
    } catch (problem) {
      complain(problem);
    }
  };

  return html`<section class=${`atlas ${placing ? 'placing' : ''}`} aria-label=${t('nav.map')} data-test="map">
    <div class="canvas" ref=${into}></div>
    <div class="map-tools">
      <div class="group">
        <button type="button" aria-label=${t('map.zoom-in')} title=${t('map.zoom-in')} onClick=${() => atlas?.map.zoomIn()}><${Icon} name="plus" /></button>
        <button type="button" aria-label=${t('map.zoom-out')} title=${t('map.zoom-out')} onClick=${() => atlas?.map.zoomOut()}><${Icon} name="minus" /></button>
        <button type="button" aria-label=${t('map.fit')} title=${t('map.fit')} onClick=${fit}><${Icon} name="fit" /></button>
      </div>
      <button type="button" aria-pressed=${within !== null} onClick=${toggleWithin} data-test="map-within">${within ? t('map.everywhere') : t('map.within')}</button>
      <button type="button" aria-pressed=${placing} onClick=${() => setPlacing(!placing)} data-test="map-add"><${Icon} name="plus" />${t('devices.add')}</button>
    </div>
    ${placing && html`<p class="map-hint" role="status">${t('map.place')}</p>`}
    ${error && html`<div class="map-hint"><${Failed} error=${error} /></div>`}
    <p class="attribution">${t('map.attribution')}</p>
  </section>`;
}

/** A device on the map: a dot and a label with its newest value. */
class Pin {
  /**
   * @param {import('leaflet').Map} map
   * @param {Device} device
   * @param {Position} place
   * @param {(name: string) => void} choose
   */
  constructor(map, device, place, choose) {
    this.time = '';
    this.body = document.createElement('div');
    const name = document.createElement('b');
    name.textContent = device.name;
    this.text = document.createElement('span');
    const label = document.createElement('div');
    label.className = 'tag';
    label.append(name, this.text);
    this.body.append(label);
    this.marker = marker(place, {
      icon: divIcon({ className: 'pin', html: this.body, iconSize: [16, 16] }),
      keyboard: true,
      alt: device.name,
      title: device.label ?? '',
      riseOnHover: true,
    }).addTo(map);
    this.marker.on('click', () => choose(device.name));
    const element = this.element();
    element?.setAttribute('data-test', `marker-${device.name}`);
    element?.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      choose(device.name);
    });
  }

  element() {
    return this.marker.getElement();
  }

  /** @param {string} state */
  tone(state) {
    const element = this.element();
    element?.classList.remove('stable', 'unstable', 'disconnected', 'unknown');
    if (state) element?.classList.add(state);
    element?.setAttribute('data-state', state);
  }

  /** @param {boolean} chosen */
  choose(chosen) {
    this.element()?.classList.toggle('chosen', chosen);
    this.marker.setZIndexOffset(chosen ? 1000 : 0);
  }

  /** @param {string} text @param {string} time */
  show(text, time) {
    if (this.text.textContent !== text) {
      this.text.textContent = text;
      this.element()?.setAttribute('aria-label', `${this.body.querySelector('b')?.textContent}: ${text}`);
    }
    if (time === this.time) return;
    const first = this.time === '';
    this.time = time;
    if (first || matchMedia('(prefers-reduced-motion: reduce)').matches) return;
    this.body.animate([{ boxShadow: '0 0 0 0 var(--pulse)' }, { boxShadow: '0 0 0 16px transparent' }], { duration: 800, easing: 'ease-out' });
  }
}

const TAG_WIDTH = 118;
const TAG_HEIGHT = 30;

/**
 * Labels that would cover one another are left out; their dots stay.
 * @param {import('leaflet').Map} map
 * @param {Map<string, Pin>} pins
 * @param {string | null} chosen
 */
function spread(map, pins, chosen) {
  /** @type {{ x: number, y: number }[]} */
  const taken = [];
  const order = [...pins].sort(([a], [b]) => Number(b === chosen) - Number(a === chosen));
  for (const [, pin] of order) {
    const { lat, lng } = pin.marker.getLatLng();
    const at = map.latLngToContainerPoint([lat, lng]);
    const free = taken.every((other) => Math.abs(other.x - at.x) > TAG_WIDTH || Math.abs(other.y - at.y) > TAG_HEIGHT);
    if (free) taken.push(at);
    pin.element()?.classList.toggle('bare', !free);
  }
}

/** @param {{ device: Device, close: () => void }} props */
function Panel({ device, close }) {
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  const onKey = (/** @type {KeyboardEvent} */ event) => event.key === 'Escape' && close();
  return html`<aside class="panel" aria-label=${device.name} data-test="panel" onKeyDown=${onKey}>
    <header>
      <div><h2 tabindex="-1" ref=${heading}><a href=${`#/device/${encodeURIComponent(device.name)}`} data-test="panel-device">${device.name}</a></h2>${device.label && html`<p class="faint small">${device.label}</p>`}<p class="small"><${HealthMark} health=${healthOf(device)} /></p></div>
      <button type="button" class="icon" aria-label=${t('action.close')} data-test="panel-close" onClick=${close}><${Icon} name="close" /></button>
    </header>
    <${DeviceValues} device=${device.name} />
  </aside>`;
}
