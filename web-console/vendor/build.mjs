// Makes everything in ui/vendor and ui/map from the packages named in vendor.json, and writes their checksums.
// usage: node build.mjs NODE_MODULES CENSUS_FOLDER BOROUGHS_FOLDER
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.dirname(here);
const modules = path.resolve(process.argv[2]);
const census = path.resolve(process.argv[3]);
const boroughs = path.resolve(process.argv[4]);
const manifest = JSON.parse(readFileSync(path.join(root, 'vendor.json'), 'utf8'));

for (const { name, from, version } of [...manifest.packages, ...manifest.tools]) {
  if (from !== 'npm') continue;
  const found = JSON.parse(readFileSync(path.join(modules, name, 'package.json'), 'utf8')).version;
  if (found !== version) throw new Error(`${name}: vendor.json names ${version}, installed is ${found}`);
}

for (const file of ['preact.js', 'uplot.js', 'leaflet.js', 'topojson.js', 'uplot.css', 'leaflet.css']) {
  const entry = path.join(here, file.replace('.', '.entry.'));
  const options = ['--bundle', '--format=esm', '--minify', '--legal-comments=inline', '--charset=utf8', '--loader:.png=dataurl', '--target=es2022', '--log-level=warning', `--banner:${file.endsWith('.css') ? 'css' : 'js'}=${banner(file)}`];
  execFileSync(path.join(modules, 'esbuild/bin/esbuild'), [entry, ...options, `--outfile=${path.join(root, 'ui/vendor', file)}`], {
    env: { ...process.env, NODE_PATH: modules },
    stdio: 'inherit',
  });
}
execFileSync(process.execPath, [path.join(here, 'map.mjs'), modules, census, boroughs, path.join(root, 'ui/map')], { stdio: 'inherit' });

// A file says what it is made of; NOTICE has the terms.
function banner(file) {
  const makers = manifest.packages.filter((one) => one.files.includes(`ui/vendor/${file}`)).map((one) => `${one.name} ${one.version} (${one.licence})`);
  return `/* ${makers.join(', ')}; see NOTICE. */`;
}

const names = [...new Set(manifest.packages.flatMap((one) => one.files))].sort();
manifest.files = names.map((file) => ({
  file,
  sha256: createHash('sha256').update(readFileSync(path.join(root, file))).digest('hex'),
}));
const lines = (list) => list.map((one) => `    ${JSON.stringify(one).replaceAll('":', '": ').replaceAll(',"', ', "').replace(/^\{/, '{ ').replace(/\}$/, ' }')}`).join(',\n');
writeFileSync(
  path.join(root, 'vendor.json'),
  `{\n  "packages": [\n${lines(manifest.packages)}\n  ],\n  "tools": [\n${lines(manifest.tools)}\n  ],\n  "files": [\n${lines(manifest.files)}\n  ]\n}\n`,
);
const versions = manifest.files.map(({ file, sha256 }) => {
  const makers = manifest.packages.filter((one) => one.files.includes(file)).map((one) => `${one.name} ${one.version} (${one.licence})`);
  return `${file.replace('ui/', '')}\n  ${makers.join('\n  ')}\n  sha256 ${sha256}\n`;
});
writeFileSync(path.join(root, 'ui/vendor/VERSIONS'), versions.join('\n'));
