(() => {
  "use strict";
  // Without this the page is what it was when it was loaded, and says of when.
  const EVERY = 5000;
  const PATIENCE = 10000;
  const byId = (id) => document.getElementById(id);
  const pause = byId("pause");
  const pace = byId("pace");
  const lost = byId("lost");
  let timer;
  let paused = false;
  let asking = false;

  // Only what differs is touched: focus, selection and place stay.
  function morph(old, now) {
    if (old.isEqualNode(now)) return;
    if (old.nodeName !== now.nodeName || old.id !== now.id) {
      old.replaceWith(document.importNode(now, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.data = now.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!now.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of now.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const before = [...old.childNodes];
    const after = [...now.childNodes];
    if (before.length !== after.length) {
      old.replaceChildren(...after.map((each) => document.importNode(each, true)));
      return;
    }
    before.forEach((each, at) => morph(each, after[at]));
  }

  const parts = (page) => [...page.querySelectorAll("[data-live]")];
  const shape = (page) =>
    [page.querySelector("meta[name=generator]").content, ...parts(page).map((each) => each.id)].join();

  function take(page) {
    if (shape(page) !== shape(document)) {
      location.reload();
      return;
    }
    document.title = page.title;
    byId("icon").href = page.getElementById("icon").href;
    for (const part of parts(page)) morph(byId(part.id), part);
  }

  function tell(answered) {
    lost.hidden = answered;
    if (answered) {
      lost.textContent = "";
    } else if (!lost.textContent) {
      const made = byId("made").textContent.replace("As", "as");
      lost.textContent = `The agent does not answer; what is shown is ${made}.`;
    }
  }

  function ask() {
    if (asking) return;
    asking = true;
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    request.responseType = "document";
    request.timeout = PATIENCE;
    request.onloadend = () => {
      asking = false;
      const page = request.response;
      const answered = Boolean(page && page.getElementById("verdict"));
      if (answered && !paused) take(page);
      tell(answered);
      plan();
    };
    request.send();
  }

  function plan() {
    clearTimeout(timer);
    pace.textContent = paused ? "paused" : `updates every ${EVERY / 1000}s`;
    if (!paused && !document.hidden) timer = setTimeout(ask, EVERY);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) ask();
    plan();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) ask();
    plan();
  });
  plan();
})();
