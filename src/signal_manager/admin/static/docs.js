// Shows the description of the management interface with Swagger UI, which the page loads first.
"use strict";

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#documentation",
  deepLinking: true,
  validatorUrl: null, // do not send the description to a validator on the internet
});
