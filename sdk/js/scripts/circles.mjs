/**
 * Fail on modules that import each other in a circle: none of them can be read without the others, and what one needs
 * while it loads may not be there yet. Imports of types count too, although the compiler removes them.
 */

import { readdirSync, readFileSync } from "node:fs";

import ts from "typescript";

const SOURCES = new URL("../src/", import.meta.url);

/** The modules of this folder that a file imports or exports again. */
export function importsOf(text) {
  const { importedFiles } = ts.preProcessFile(text);
  return importedFiles
    .map(({ fileName }) => /^\.\/(.+)\.js$/.exec(fileName)?.[1])
    .filter((each) => each !== undefined)
    .map((each) => `${each}.ts`);
}

/** The first circle among modules, given what each imports; undefined if there is none. */
export function circleIn(imports) {
  const done = new Set();
  const visit = (name, path) => {
    if (path.includes(name)) return [...path.slice(path.indexOf(name)), name];
    if (done.has(name)) return undefined;
    for (const each of imports.get(name) ?? []) {
      const found = visit(each, [...path, name]);
      if (found !== undefined) return found;
    }
    done.add(name);
    return undefined;
  };
  for (const name of imports.keys()) {
    const found = visit(name, []);
    if (found !== undefined) return found;
  }
  return undefined;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const names = readdirSync(SOURCES).filter((name) => name.endsWith(".ts"));
  const imports = new Map(names.map((name) => [name, importsOf(readFileSync(new URL(name, SOURCES), "utf8"))]));
  const circle = circleIn(imports);
  if (circle !== undefined) {
    console.error(`modules import each other in a circle: ${circle.join(" -> ")}`);
    process.exit(1);
  }
}
