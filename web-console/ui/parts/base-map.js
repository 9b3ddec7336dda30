// The base map: Natural Earth for the world, the Census shoreline around New York where the sample's stations stand.
import { canvas, divIcon, geoJSON, Map as LeafletMap, marker, rectangle } from 'leaflet';
import { feature } from 'topojson';
import { colour } from '../theme.js';

/** @typedef {{ objects: Record<string, object>, box?: [number, number, number, number] }} Topology */

/** The detailed layer has no meaning below a pixel. */
const REGION_ZOOM_MIN = 7;
const COUNTIES_ZOOM_MIN = 8;
const NAMES_ZOOM_MIN = 9.5;

/** @param {string} path @returns {Promise<Topology>} */
async function topology(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

/** @param {HTMLElement} into */
export async function baseMap(into) {
  const [world, region] = await Promise.all([topology('/map/world.json'), topology('/map/new-york.json')]);
  const map = new LeafletMap(into, {
    attributionControl: false,
    zoomControl: false,
    minZoom: 2,
    maxZoom: 14,
    zoomSnap: 0.5,
    wheelPxPerZoomLevel: 90,
    worldCopyJump: true,
    maxBounds: [
      [-85, -540],
      [85, 540],
    ],
    fadeAnimation: false,
  });
  map.setView([30, 0], 2);
  const paint = layers(map, world, region);
  paint();
  return { map, paint };
}

/**
 * @param {LeafletMap} map
 * @param {Topology} world
 * @param {Topology} region
 * @returns {() => void} colours everything anew
 */
function layers(map, world, region) {
  const [worldPane, regionPane, namesPane] = ['world', 'region', 'names'].map((name, i) => {
    const pane = map.createPane(name);
    pane.style.zIndex = String(210 + i * 10);
    pane.style.pointerEvents = 'none';
    return name;
  });
  const worldCanvas = canvas({ pane: worldPane, padding: 0.3 });
  const regionCanvas = canvas({ pane: regionPane, padding: 0.3 });
  const shape = (/** @type {Topology} */ source, /** @type {string} */ name, /** @type {object} */ renderer) =>
    geoJSON(feature(source, source.objects[name]), { interactive: false, renderer, smoothFactor: 0.6 });

  const far = {
    land: shape(world, 'land', worldCanvas),
    states: shape(world, 'states', worldCanvas),
    borders: shape(world, 'borders', worldCanvas),
  };
  const [west, south, east, north] = region.box ?? [0, 0, 0, 0];
  const near = {
    sea: rectangle([[south, west], [north, east]], { interactive: false, renderer: regionCanvas, stroke: false }),
    land: shape(region, 'land', regionCanvas),
    shore: shape(region, 'shore', regionCanvas),
    counties: shape(region, 'counties', regionCanvas),
    states: shape(region, 'states', regionCanvas),
  };
  const names = geoJSON(feature(region, region.objects.names), {
    pointToLayer: (/** @type {{ properties: { name: string } }} */ point, /** @type {import('leaflet').Position} */ at) => {
      const text = document.createElement('span');
      text.textContent = point.properties.name;
      return marker(at, { pane: namesPane, interactive: false, keyboard: false, icon: divIcon({ className: 'county', html: text, iconSize: [0, 0] }) });
    },
  });

  Object.values(far).forEach((layer) => layer.addTo(map));
  const toggle = (/** @type {import('leaflet').Layer} */ layer, /** @type {boolean} */ on) => {
    if (on && !map.hasLayer(layer)) layer.addTo(map);
    if (!on && map.hasLayer(layer)) layer.remove();
  };
  const follow = () => {
    const zoom = map.getZoom();
    for (const layer of Object.values(near)) toggle(layer, zoom >= (layer === near.counties ? COUNTIES_ZOOM_MIN : REGION_ZOOM_MIN));
    toggle(names, zoom >= NAMES_ZOOM_MIN);
  };
  map.on('zoomend', follow);
  follow();

  return () => {
    const [water, land, shore, border] = ['--water', '--land', '--shore', '--border'].map(colour);
    const line = (/** @type {string} */ stroke, /** @type {number} */ weight, /** @type {string} */ dashArray = '') => ({ color: stroke, weight, dashArray, fill: false });
    far.land.setStyle({ color: shore, weight: 0.7, fillColor: land, fillOpacity: 1 });
    far.borders.setStyle(line(border, 0.9));
    far.states.setStyle(line(border, 0.5));
    near.sea.setStyle({ fillColor: water, fillOpacity: 1 });
    near.land.setStyle({ stroke: false, fillColor: land, fillOpacity: 1 });
    near.shore.setStyle(line(shore, 1));
    near.counties.setStyle(line(border, 0.6, '3 3'));
    near.states.setStyle(line(border, 1.2));
  };
}
