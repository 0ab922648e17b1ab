/* Marks the page once its scripts listen: they wait for the texts, which the load event does not. */
import "./texts.js";

document.documentElement.dataset.ready = "";
