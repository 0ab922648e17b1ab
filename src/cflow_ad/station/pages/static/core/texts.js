/* The texts of the language of the page. In them stand names as {count}, and a key that ends in "_one" is for n = 1. */
export const language = document.documentElement.lang;
const texts = await (await fetch(`/texts/${language}.json`)).json();

export const has = (key) => key in texts;

export function t(key, values = {}) {
  const text = (values.n === 1 && texts[`${key}_one`]) || texts[key];
  if (text === undefined) throw new Error(`no text ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    if (!(name in values)) throw new Error(`text ${key}: no value ${name}`);
    return values[name];
  });
}
