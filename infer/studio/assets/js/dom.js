// Elements from data: whatever a name or a prompt says is text, never markup.

export const find = (id) => document.getElementById(id);

export function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) made.setAttribute(name, String(value));
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function clock(seconds) {
  const whole = Math.floor(seconds + 0.01); // a decoder may lose a sample of the last second
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function remembered(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`backline-studio:${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`backline-studio:${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing loses a draft, and no take: those are on the disk.
  }
}
