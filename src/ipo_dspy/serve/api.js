SwaggerUIBundle({ url: "openapi.json", dom_id: "#endpoints", defaultModelsExpandDepth: -1 });
