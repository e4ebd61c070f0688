/**
 * Fail on modules that import each other in a circle: what one of them needs while it loads may not be there yet.
 *
 * Imports of types alone do not count, because the compiler removes them.
 */

import { readdirSync, readFileSync } from "node:fs";

import ts from "typescript";

const SOURCES = new URL("../src/", import.meta.url);

/** The modules that a file of this folder imports when it runs. */
export function importsOf(name, text) {
  const { statements } = ts.createSourceFile(name, text, ts.ScriptTarget.Latest);
  return statements
    .filter((each) => ts.isImportDeclaration(each) || ts.isExportDeclaration(each))
    .filter((each) => each.moduleSpecifier !== undefined && !isOfTypes(each))
    .map((each) => /^\.\/(.+)\.js$/.exec(each.moduleSpecifier.text)?.[1])
    .filter((each) => each !== undefined)
    .map((each) => `${each}.ts`);
}

function isOfTypes(declaration) {
  if (ts.isExportDeclaration(declaration)) return declaration.isTypeOnly;
  const clause = declaration.importClause;
  if (clause === undefined || clause.name !== undefined) return clause?.isTypeOnly ?? false;
  const names = clause.namedBindings;
  return (
    clause.isTypeOnly ||
    (names !== undefined && ts.isNamedImports(names) && names.elements.every((each) => each.isTypeOnly))
  );
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
  const imports = new Map(names.map((name) => [name, importsOf(name, readFileSync(new URL(name, SOURCES), "utf8"))]));
  const circle = circleIn(imports);
  if (circle !== undefined) {
    console.error(`modules import each other in a circle: ${circle.join(" -> ")}`);
    process.exit(1);
  }
}
