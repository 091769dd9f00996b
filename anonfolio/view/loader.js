// Runs a program that a notebook stores once: this widget's model names the one that has it.

async function program(model) {
  const stored = await model.widget_manager.get_model(model.get("program").replace("IPY_MODEL_", ""));
  const url = URL.createObjectURL(new Blob([stored.get("_esm")], { type: "text/javascript" }));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

export default {
  async render(given) {
    return (await program(given.model)).render(given);
  },
};
