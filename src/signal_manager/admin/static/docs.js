// Shows the description of the management interface with Swagger UI, which the page has loaded before.
"use strict";

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#documentation",
  deepLinking: true,
  validatorUrl: null, // the description goes nowhere
});
