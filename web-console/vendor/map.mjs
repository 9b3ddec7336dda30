// Makes ui/map/*.json, the base map, from the packages named in vendor.json.
// usage: node map.mjs NODE_MODULES CENSUS_FOLDER BOROUGHS_FOLDER OUTPUT_FOLDER
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import path from 'node:path';

const [, , modules, census, boroughs, out] = process.argv;
const require = createRequire(path.resolve(modules, 'any.js'));
const { mesh, merge, feature, quantize } = require('topojson-client');
const { topology } = require('topojson-server');
const { presimplify, simplify, sphericalTriangleArea, filter, filterWeight } = require('topojson-simplify');
const shapefile = require('shapefile');
const proj4 = require('proj4');
const clipping = require('polygon-clipping');

// The Census layer covers the sample's three airports; the rest of the world is Natural Earth 1:50m.
const BOX = { west: -76, south: 39.4, east: -71.6, north: 42 };
const EARTH_KM2 = 6371 ** 2;

const round = (value, places) => Math.round(value * 10 ** places) / 10 ** places;

// Sutherland and Hodgman against the box, one side after the other.
function clipRing(ring) {
  const sides = [
    [0, BOX.west, 1],
    [0, BOX.east, -1],
    [1, BOX.south, 1],
    [1, BOX.north, -1],
  ];
  let points = ring.slice(0, -1);
  for (const [axis, edge, sign] of sides) {
    const inside = (p) => (p[axis] - edge) * sign >= 0;
    const next = [];
    for (let i = 0; i < points.length; i += 1) {
      const a = points[i];
      const b = points[(i + 1) % points.length];
      if (inside(a)) next.push(a);
      if (inside(a) !== inside(b)) {
        const share = (edge - a[axis]) / (b[axis] - a[axis]);
        const cut = [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share];
        cut[axis] = edge;
        next.push(cut);
      }
    }
    points = next;
  }
  return points.length < 3 ? null : [...points, points[0]];
}

function clip(geometry) {
  const polygons = geometry.type === 'Polygon' ? [geometry.coordinates] : geometry.coordinates;
  const kept = polygons.map((rings) => rings.map(clipRing).filter(Boolean)).filter((rings) => rings.length > 0);
  return kept.length === 0 ? null : { type: 'MultiPolygon', coordinates: kept };
}

const ringArea = (ring) => ring.slice(1).reduce((sum, p, i) => sum + ring[i][0] * p[1] - p[0] * ring[i][1], 0) / 2;

function inRing([x, y], ring) {
  let inside = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i, i += 1) {
    const [xi, yi] = ring[i];
    const [xj, yj] = ring[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

// The point of a grid that is farthest from the shore of the largest polygon: a place for the name.
function labelPoint(geometry) {
  const rings = geometry.coordinates.map((polygon) => polygon[0]);
  const ring = rings.reduce((a, b) => (Math.abs(ringArea(b)) > Math.abs(ringArea(a)) ? b : a));
  const xs = ring.map((p) => p[0]);
  const ys = ring.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  let best = { far: -1, at: ring[0] };
  for (let i = 1; i < 24; i += 1) {
    for (let j = 1; j < 24; j += 1) {
      const at = [x0 + ((x1 - x0) * i) / 24, y0 + ((y1 - y0) * j) / 24];
      if (!inRing(at, ring)) continue;
      const far = Math.min(...ring.map((p) => Math.hypot((p[0] - at[0]) * 0.76, p[1] - at[1])));
      if (far > best.far) best = { far, at };
    }
  }
  return best.at.map((value) => round(value, 3));
}

const onEdge = (a, b) =>
  [[0, BOX.west], [0, BOX.east], [1, BOX.south], [1, BOX.north]].some(
    ([axis, edge]) => Math.abs(a[axis] - edge) < 1e-6 && Math.abs(b[axis] - edge) < 1e-6,
  );

// The cut at the box is no shore.
function withoutEdges(lines) {
  const parts = [];
  for (const line of lines.coordinates) {
    let part = [line[0]];
    for (let i = 1; i < line.length; i += 1) {
      if (onEdge(line[i - 1], line[i])) {
        if (part.length > 1) parts.push(part);
        part = [];
      }
      part.push(line[i]);
    }
    if (part.length > 1) parts.push(part);
  }
  return { type: 'MultiLineString', coordinates: parts };
}

// The five boroughs follow the city's own shoreline; the Census draws its counties through the rivers.
const BOROUGHS = { Manhattan: 'New York', Bronx: 'Bronx', Brooklyn: 'Kings', Queens: 'Queens', 'Staten Island': 'Richmond' };
const CITY_FIPS = new Set(['36061', '36005', '36047', '36081', '36085']);
const STATE_PLANE =
  '+proj=lcc +lat_1=41.03333333333333 +lat_2=40.66666666666666 +lat_0=40.16666666666666 +lon_0=-74 +x_0=300000.0000000001 +y_0=0 +ellps=GRS80 +units=us-ft +no_defs';

const polygonsOf = (geometry) => (geometry.type === 'Polygon' ? [geometry.coordinates] : geometry.coordinates);

async function city() {
  const source = await shapefile.read(path.join(boroughs, 'nybb.shp'));
  return source.features.map((borough) => ({
    type: 'Feature',
    properties: { name: BOROUGHS[borough.properties.BoroName] },
    geometry: {
      type: 'MultiPolygon',
      coordinates: polygonsOf(borough.geometry).map((rings) => rings.map((ring) => ring.map((p) => proj4(STATE_PLANE, 'WGS84', [p[0], p[1]])))),
    },
  }));
}

/** Natural Earth 1:10m knows the Hudson, Newark Bay and the bays of Long Island as water. */
function roughLand() {
  const atlas = require('world-atlas/land-10m.json');
  const land = feature(atlas, atlas.objects.land);
  return (land.features ?? [land]).flatMap((one) => clip(one.geometry)?.coordinates ?? []);
}

/** Two surveys of one border on land leave slivers; a strip of 250 m along it closes them. */
function strips(lines) {
  const half = 0.0022;
  const quads = [];
  for (const line of lines.coordinates) {
    for (let i = 1; i < line.length; i += 1) {
      const [a, b] = [line[i - 1], line[i]];
      const length = Math.hypot((b[0] - a[0]) * 0.76, b[1] - a[1]) || 1;
      const [x, y] = [(-(b[1] - a[1]) / length / 0.76) * half, (((b[0] - a[0]) * 0.76) / length) * half];
      quads.push([[[a[0] + x, a[1] + y], [b[0] + x, b[1] + y], [b[0] - x, b[1] - y], [a[0] - x, a[1] - y], [a[0] + x, a[1] + y]]]);
    }
  }
  return quads;
}

const landHas = (land, at) => land.some((rings) => inRing(at, rings[0]) && !rings.slice(1).some((hole) => inRing(at, hole)));

// A border in the middle of a river is true, but between two shores it is noise.
function onLand(lines, land) {
  const parts = [];
  for (const line of lines.coordinates) {
    let part = [];
    for (let i = 1; i < line.length; i += 1) {
      const [a, b] = [line[i - 1], line[i]];
      if (landHas(land, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2])) {
        if (part.length === 0) part.push(a);
        part.push(b);
      } else if (part.length > 0) {
        parts.push(part);
        part = [];
      }
    }
    if (part.length > 0) parts.push(part);
  }
  return { type: 'MultiLineString', coordinates: parts };
}

const simplified = (objects, km2) => {
  let t = simplify(presimplify(topology(objects), sphericalTriangleArea), km2 / EARTH_KM2);
  t = filter(t, filterWeight(t, 0.01 / EARTH_KM2, sphericalRing));
  return t;
};

async function region() {
  const source = await shapefile.read(path.join(census, 'cb_2016_us_county_500k.shp'));
  const features = [];
  for (const county of source.features) {
    const geometry = clip(county.geometry);
    if (geometry) features.push({ type: 'Feature', properties: { id: county.properties.GEOID, name: county.properties.NAME, state: county.properties.STATEFP }, geometry });
  }
  const t = topology({ counties: { type: 'FeatureCollection', features } });
  const counties = t.objects.counties;
  const isCity = (county) => CITY_FIPS.has(county.properties.id);
  const around = merge(t, counties.geometries.filter((county) => !isCity(county))).coordinates;
  const rough = roughLand();
  const seam = mesh(t, counties, (a, b) => a !== b && isCity(a) !== isCity(b) && a.properties.state === b.properties.state);
  const seamOnLand = onLand(seam, rough);
  const five = await city();
  const joined = clipping.union(
    clipping.intersection(around, rough),
    ...five.map((borough) => simplifiedPolygons(borough.geometry)),
    clipping.intersection(strips(seamOnLand).reduce((all, quad) => clipping.union(all, quad), []), rough),
  );

  // Triangles under 0.0004 km² and rocks under 0.01 km² are below a pixel at zoom 13.
  const shoreline = simplified({ land: { type: 'MultiPolygon', coordinates: joined } }, 0.0004);
  const land = feature(shoreline, shoreline.objects.land).geometry;
  const borders = simplified({ counties: { type: 'FeatureCollection', features } }, 0.0012);
  const lines = (test) => mesh(borders, borders.objects.counties, (a, b) => a !== b && test(a.properties.state === b.properties.state));
  const names = {
    type: 'FeatureCollection',
    features: [...features.filter((one) => !CITY_FIPS.has(one.properties.id)), ...five].map((one) => ({
      type: 'Feature',
      properties: { name: one.properties.name },
      geometry: { type: 'Point', coordinates: labelPoint(one.geometry) },
    })),
  };
  const result = topology(
    {
      land,
      shore: withoutEdges(mesh(shoreline, shoreline.objects.land, (a, b) => a === b)),
      counties: onLand(lines((same) => same), land.coordinates),
      states: lines((same) => !same),
      names,
    },
    6e4,
  );
  result.box = [BOX.west, BOX.south, BOX.east, BOX.north];
  return result;
}

/** The city's survey is finer than any screen. */
function simplifiedPolygons(geometry) {
  const t = simplified({ land: geometry }, 0.0002);
  return feature(t, t.objects.land).geometry.coordinates;
}

function sphericalRing(ring) {
  const scale = Math.PI / 180;
  const mid = ring[0][1] * scale;
  return Math.abs(ringArea(ring)) * scale * scale * Math.cos(mid);
}

function world() {
  const atlas = require('world-atlas/countries-50m.json');
  const states = require('us-atlas/states-10m.json');
  const inner = mesh(states, states.objects.states, (a, b) => a !== b);
  let t = topology({ land: feature(atlas, atlas.objects.land), borders: mesh(atlas, atlas.objects.countries, (a, b) => a !== b), states: inner });
  t = simplify(presimplify(t, sphericalTriangleArea), 2 / EARTH_KM2);
  return quantize(t, 3e4);
}

function write(name, value) {
  const text = JSON.stringify(value);
  writeFileSync(path.join(out, name), text);
  console.log(name, text.length, 'bytes,', gzipSync(text, { level: 9 }).length, 'gzip');
}

write('world.json', world());
write('new-york.json', await region());
