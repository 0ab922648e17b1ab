/* Log in, and go on to where one wanted to be. */
import { post } from "../core/api.js";
import { find } from "../core/dom.js";

const next = new URLSearchParams(location.search).get("next") ?? "";
const target = /^\/(?![/\\])/.test(next) ? next : "/inspect";  // never to another host

find("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const button = find("button", event.target);
  button.disabled = true;
  find("#wrong").textContent = "";
  try {
    await post("/v1/session", { user: form.get("user"), password: form.get("password") });
    location.assign(target);
  } catch (error) {
    find("#wrong").textContent = error.message;
    button.disabled = false;
    find("#password").select();
  }
});
