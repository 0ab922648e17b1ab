/* Settings: language and theme of this browser, one's password; users and keys for admins. */
import { get, post, remove } from "../core/api.js";
import { find, getRole, h, put, setCookie } from "../core/dom.js";
import { attempt, notice } from "../core/notice.js";
import { t } from "../core/texts.js";

find("#language").addEventListener("change", (event) => {
  setCookie("cflow_language", event.target.value);
  location.reload();
});
find("#theme").addEventListener("change", (event) => {
  setCookie("cflow_theme", event.target.value);
  document.documentElement.dataset.theme = event.target.value;
});
find("#change-password").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await post("/v1/session/password", { old: find("#old").value, new: find("#new").value });
    event.target.reset();
    notice(t("settings.password_changed"));
  });
});

async function showUsers() {
  const { items } = await get("/v1/users");
  put(find("#users"), items.map((user) => h("tr", {},
    h("td", {}, user.name), h("td", {}, t(`role.${user.role}`)),
    h("td", { class: "number" }, user.name !== document.body.dataset.user && h("button", {
      type: "button", "aria-label": t("settings.remove_user", { name: user.name }),
      onclick: () => ask(t("settings.remove_user", { name: user.name }), async () => { await remove(`/v1/users/${encodeURIComponent(user.name)}`); await showUsers(); }),
    }, t("remove"))))));
}

async function showKeys() {
  const { items } = await get("/v1/keys");
  put(find("#keys"), items.map((key) => h("tr", {},
    h("td", {}, key.name), h("td", {}, t(`role.${key.role}`)),
    h("td", { class: "number" }, h("button", {
      type: "button", "aria-label": t("settings.remove_key", { name: key.name }),
      onclick: () => ask(t("settings.remove_key", { name: key.name }), async () => { await remove(`/v1/keys/${key.id}`); await showKeys(); }),
    }, t("remove"))))));
}

const ask = (question, action) => { if (confirm(question)) attempt(action); };

if (getRole() === "admin") {
  attempt(showUsers);
  attempt(showKeys);
  find("#add-user").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("/v1/users", { name: find("#user-name").value, password: find("#user-password").value, role: find("#user-role").value });
      event.target.reset();
      await showUsers();
    });
  });
  find("#add-key").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const made = await post("/v1/keys", { name: find("#key-name").value, role: find("#key-role").value });
      event.target.reset();
      find("#new-key").hidden = false;
      find("#new-key code").textContent = made.key;
      await showKeys();
    });
  });
}
