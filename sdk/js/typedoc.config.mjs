// What `make docs` writes of this SDK: one Markdown page for each entry point of package.json.
import { readFileSync } from "node:fs";

const { exports } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));
const entries = Object.keys(exports).filter((name) => name !== "./package.json");

/** @type {Partial<import("typedoc").TypeDocOptions>} */
export default {
  plugin: ["typedoc-plugin-markdown"],
  entryPoints: entries.map((name) => `src/${name === "." ? "index" : name.slice(2)}.ts`),
  tsconfig: "tsconfig.build.json",
  out: "../../build/docs/browser",
  outputFileStrategy: "modules",
  entryFileName: "modules",
  pageTitleTemplates: { module: ({ name }) => (name === "index" ? "signal-manager" : `signal-manager/${name}`) },
  readme: "none",
  useHTMLAnchors: true,
  hideBreadcrumbs: true,
  hidePageHeader: true,
  disableSources: true,
  excludeExternals: true,
  excludeInternal: true,
  excludePrivate: true,
  excludeProtected: true,
  parametersFormat: "table",
  interfacePropertiesFormat: "table",
  typeDeclarationFormat: "table",
  // A public name without a comment, a name that is used and not exported, a link that leads nowhere: no page.
  validation: { notExported: true, invalidLink: true, notDocumented: true },
  // The room's view of a publication and of its client, and the table behind a type.
  intentionallyNotExported: ["LocalTrack", "RoomClient", "TYPE_BYTES"],
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  // Fields are left out: what an object says of itself says what most of its fields are.
  requiredToBeDocumented: ["Class", "Interface", "Enum", "Function", "TypeAlias", "Variable", "Method", "Accessor"],
};
