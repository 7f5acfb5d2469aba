"use strict";
// The viewer of a comparison. Two canvases of one size lie on each other; both get the same transform, so they cannot
// be zoomed or moved apart. Clips are decoded by two hidden <video> elements. A frame is drawn only when both have
// decoded it, so the two sides always show the same moment.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const stage = byId("stage"), wipe = byId("wipe"), divider = byId("divider"), timeline = byId("frame");
  const [width, height] = data.size;
  const MAX_ZOOM = 8;
  const STALL_MS = 1500; // without a new frame while a clip plays
  const FLICKER_MS = 500; // two changes in a second: below the three flashes that can harm
  const state = {
    mode: "wipe", zoom: 0, x: width / 2, y: height / 2, gain: 4, sharp: false, part: 0, frame: 0,
    wanted: 0, playing: false, speed: 1, flickerRight: false,
  };
  let isClip = data.kind === "clip";

  // ------------------------------------------------------------------------------------------------- what is shown

  const canvases = ["left", "right", "difference"].map((name) => byId("canvas-" + name));
  const layers = ["left", "right", "difference"].map((name) => byId("layer-" + name));
  for (const canvas of canvases) {
    canvas.width = width;
    canvas.height = height;
  }
  const contexts = canvases.map((canvas) => canvas.getContext("2d"));

  function draw(context, image, input) {
    // Smaller inputs are enlarged by the browser's best resampling, or shown with their own pixels.
    const [wide, tall] = input.size;
    context.globalCompositeOperation = "copy";
    context.imageSmoothingEnabled = !(state.sharp && wide < width);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, wide, tall, 0, 0, width, height);
  }

  function drawDifference() {
    if (state.mode !== "difference") return;
    const context = contexts[2];
    context.globalCompositeOperation = "copy";
    context.drawImage(canvases[0], 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(canvases[1], 0, 0);
  }

  // --------------------------------------------------------------------------------------------------------- sides

  class StillSide {
    constructor(index) {
      this.input = index;
      this.image = byId("still-" + index);
    }
    has() {
      return this.image.complete && this.image.naturalWidth > 0;
    }
    seek() {
      if (!this.has()) this.image.addEventListener("load", present, { once: true });
    }
    frame() {
      return this.image;
    }
    close() {}
  }

  const decoded = new Map(); // object URLs of the clips, by input

  function clipUrl(index) {
    if (!decoded.has(index)) {
      const text = byId("media-" + index).textContent;
      const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text)
        : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      decoded.set(index, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
    }
    return decoded.get(index);
  }

  function frameAt(seconds) {
    // The last frame that begins at or before a time; half a tick of tolerance for rounding in the browser.
    const ticks = seconds * data.ticks + 1;
    let low = 0, high = data.times.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (data.times[middle] <= ticks) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  const middleOf = (frame) => (data.times[frame] + data.times[frame + 1]) / 2 / data.ticks;

  class ClipSide {
    // Keeps the last decoded frames of one clip, by number.
    constructor(index) {
      this.input = index;
      this.kept = new Map();
      this.room = width * height > 4e6 ? 4 : 8;
      this.seeking = null; // the frame that the video is jumping to
      this.latest = -1; // the frame decoded last
      const video = this.video = document.createElement("video");
      video.muted = true;
      video.playsInline = true;
      video.disablePictureInPicture = true;
      video.preload = "auto";
      video.addEventListener("seeked", () => this.arrived());
      video.addEventListener("loadeddata", () => this.arrived());
      video.addEventListener("ended", () => this.closed || this.keep(data.times.length - 2));
      video.addEventListener("error", () => refuse(video.error && video.error.message));
      byId("players").append(video);
      if ("requestVideoFrameCallback" in video) this.follow();
      else this.poll();
      video.src = clipUrl(index);
    }
    follow() {
      this.video.requestVideoFrameCallback((_, about) => {
        if (this.closed) return;
        this.keep(frameAt(about.mediaTime));
        this.follow();
      });
    }
    poll() {
      // For browsers that do not announce frames.
      if (this.closed) return;
      if (!this.video.paused && !this.video.seeking) this.keep(frameAt(this.video.currentTime));
      requestAnimationFrame(() => this.poll());
    }
    keep(announced) {
      // The image that the video holds now may be newer than the one announced; a VideoFrame knows its own time.
      const video = this.video;
      if (video.readyState < 2) return;
      const image = typeof VideoFrame === "function" ? new VideoFrame(video) : video;
      const number = image === video ? announced : frameAt(image.timestamp / 1e6);
      if (!this.kept.has(number)) this.copy(image, number);
      if (image !== video) image.close();
      this.latest = number;
      present();
    }
    copy(image, number) {
      let canvas;
      if (this.kept.size >= this.room) {
        const oldest = this.kept.keys().next().value;
        canvas = this.kept.get(oldest);
        this.kept.delete(oldest);
      } else {
        canvas = document.createElement("canvas");
        canvas.width = this.video.videoWidth;
        canvas.height = this.video.videoHeight;
      }
      const context = canvas.getContext("2d");
      context.globalCompositeOperation = "copy";
      context.drawImage(image, 0, 0);
      this.kept.set(number, canvas);
    }
    arrived() {
      // A jump has ended: the frame at the current time is there.
      if (this.closed || this.video.readyState < 2) return;
      this.seeking = null;
      const number = frameAt(this.video.currentTime);
      if (flows() || number === state.wanted) this.keep(number);
      if (!flows() && number !== state.wanted) this.seek(state.wanted);
      resume();
    }
    forget(number) {
      // Drops all frames but one, so that older ones are not taken for those that follow.
      for (const each of [...this.kept.keys()]) if (each !== number) this.kept.delete(each);
      this.latest = number;
    }
    has(number) {
      return this.kept.has(number);
    }
    frame(number) {
      return this.kept.get(number);
    }
    seek(number) {
      if (this.seeking !== null) return; // arrived() goes on to the frame that is wanted then
      this.seeking = number;
      this.video.currentTime = middleOf(number);
    }
    close() {
      this.closed = true;
      this.video.pause();
      this.video.removeAttribute("src");
      this.video.load();
      this.video.remove();
    }
  }

  const sides = [null, null];

  function choose(side, input) {
    if (sides[side]) sides[side].close();
    sides[side] = isClip ? new ClipSide(input) : new StillSide(input);
    byId(side ? "right" : "left").value = String(input);
    label();
    pause();
    show(state.frame);
  }

  function label() {
    ["left", "right"].forEach((name, side) => {
      const input = data.inputs[sides[side] ? sides[side].input : side];
      byId("tag-" + name).textContent = input.label;
      canvases[side].setAttribute("aria-label", (side ? "Right: " : "Left: ") + input.label);
    });
  }

  function refuse(reason) {
    if (!isClip) return;
    isClip = false;
    pause();
    const text = "This browser cannot play the clips of this page (H.264 in MP4)" + (reason ? ": " + reason : "") +
      ". One frame of each input is compared instead. Chrome, Edge, Firefox and Safari play the clips.";
    byId("message").textContent = text;
    byId("message").hidden = false;
    byId("transport").hidden = true;
    stage.dataset.refused = "true";
    state.frame = state.wanted = 0;
    sides.forEach((side, index) => side && choose(index, side.input));
  }

  // -------------------------------------------------------------------------------------------------------- frames

  const part = () => data.parts[state.part];
  const lastOf = (each) => each.first + each.count - 1;

  function show(number) {
    // Jumps to a frame; it is drawn when both sides have it.
    state.wanted = number;
    for (const side of sides) if (side) side.seek(number);
    present();
  }

  // Clips play by themselves ("flow"), unless the computer is too slow to decode the same frames of both: then every
  // frame is jumped to ("stepping"), which takes longer for each one, but never fails.
  let stepping = false, watchdog = 0, waiting = 0, drawnAt = 0;
  const flows = () => state.playing && !stepping;

  function present() {
    const [left, right] = sides;
    if (!left || !right) return;
    let number = state.wanted;
    if (flows()) {
      number = newestOfBoth(left, right);
      if (left.seeking === null && right.seeking === null) balance(left, right);
      if (number === state.frame) return;
    }
    if (!left.has(number) || !right.has(number)) return;
    if (flows() && number > lastOf(part())) return restart();
    state.frame = number;
    drawnAt = performance.now();
    if (flows()) state.wanted = number;
    draw(contexts[0], left.frame(number), data.inputs[left.input]);
    draw(contexts[1], right.frame(number), data.inputs[right.input]);
    drawDifference();
    stage.dataset.frame = String(number);
    stage.dataset.drawn = String(Number(stage.dataset.drawn || 0) + 1);
    describeFrame();
    if (flows() && number === lastOf(part())) restart();
    if (state.playing && stepping) stepOn();
  }

  function watch() {
    const frame = (data.times[state.frame + 1] - data.times[state.frame]) / data.ticks / state.speed;
    if (stepping || performance.now() - drawnAt < Math.max(STALL_MS, 3000 * frame)) return;
    stepping = true;
    for (const side of sides) {
      side.video.pause();
      side.seeking = null;
    }
    stepOn();
  }

  function stepOn() {
    // Jumps to the frame that is due, or waits for the next one.
    clearTimeout(waiting);
    if (!state.playing || !stepping) return;
    const last = lastOf(part()), now = data.times[state.frame] / data.ticks;
    const since = (performance.now() - drawnAt) / 1000 * state.speed;
    let next = part().first;
    if (state.frame < last) {
      next = Math.min(last, Math.max(state.frame + 1, frameAt(now + since)));
      const early = (data.times[next] / data.ticks - now - since) / state.speed;
      if (early > 0) {
        waiting = setTimeout(stepOn, early * 1000);
        return;
      }
    }
    show(next);
  }

  function newestOfBoth(left, right) {
    // The last frame that both sides have decoded; -1 if there is none.
    let newest = -1;
    for (const number of left.kept.keys()) if (right.kept.has(number)) newest = Math.max(newest, number);
    return newest;
  }

  function balance(left, right) {
    // The side that is ahead waits before its older frames leave the memory of the other.
    const lead = left.latest - right.latest;
    const limit = Math.min(left.room, right.room) - 2;
    for (const [side, ahead] of [[left, lead], [right, -lead]]) {
      if (ahead >= limit && !side.video.paused) side.video.pause();
      else if (ahead <= 1 && side.video.paused && side.seeking === null && !side.video.ended) start(side.video);
      side.video.playbackRate = ahead > 1 ? state.speed * 0.9 : state.speed;
    }
  }

  function start(video) {
    const promise = video.play();
    if (promise) promise.catch(() => {}); // paused again before it began
  }

  function restart() {
    // Plays the part again. Both sides wait for each other at its first frame.
    for (const side of sides) {
      side.video.pause();
      side.forget(-1);
      side.seeking = part().first;
      side.video.currentTime = middleOf(part().first);
    }
  }

  function resume() {
    // After a jump, goes on when both sides have arrived.
    if (!flows() || sides.some((side) => side.seeking !== null)) return;
    for (const side of sides) start(side.video);
  }

  function play() {
    if (!isClip || state.playing || part().count < 2) return;
    state.playing = true;
    drawnAt = performance.now();
    watchdog = setInterval(watch, 250);
    for (const side of sides) {
      side.video.playbackRate = state.speed;
      side.forget(state.frame);
    }
    if (state.frame >= lastOf(part())) restart();
    else if (sides.every((side) => side.seeking === null)) for (const side of sides) start(side.video);
    describePlay();
  }

  function pause() {
    if (!state.playing) return;
    state.playing = stepping = false;
    clearInterval(watchdog);
    for (const side of sides) if (side) side.video.pause();
    describePlay();
    show(state.frame);
  }

  function step(by) {
    pause();
    const { first, count } = part();
    show(first + ((state.wanted - first + by + count) % count));
  }

  function choosePart(index) {
    const wasPlaying = state.playing;
    pause();
    state.part = index;
    byId("part").value = String(index);
    timeline.max = String(part().count - 1);
    state.frame = part().first;
    show(part().first);
    if (wasPlaying) play();
  }

  function describeFrame() {
    if (!isClip) return;
    const place = state.frame - part().first;
    const seconds = data.seconds[state.frame].toFixed(2) + " s";
    timeline.value = String(place);
    timeline.setAttribute("aria-valuetext", `frame ${place + 1} of ${part().count}, ${seconds}`);
    byId("clock").textContent = `${place + 1} / ${part().count} · ${seconds}`;
  }

  function describePlay() {
    byId("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
    byId("play-shape").setAttribute("d", state.playing ? "M7 5h3v14H7zM14 5h3v14h-3z" : "M7 5l12 7-12 7z");
    stage.dataset.playing = String(state.playing);
  }

  // ---------------------------------------------------------------------------------------------------------- view

  const isSplit = () => state.mode === "side";
  const pane = () => [stage.clientWidth / (isSplit() ? 2 : 1), stage.clientHeight];

  const density = () => window.devicePixelRatio || 1;

  function fit() {
    const [wide, tall] = pane();
    return Math.min(wide / width, tall / height) * density();
  }

  // CSS pixels for each pixel of the larger input. At 1:1 that is one pixel of the screen.
  const scale = () => (state.zoom || fit()) / density();

  function layOut() {
    const [wide, tall] = pane();
    const factor = scale();
    const limit = (center, room, size) => {
      const half = room / factor / 2;
      return half * 2 >= size ? size / 2 : Math.min(Math.max(center, half), size - half);
    };
    state.x = limit(state.x, wide, width);
    state.y = limit(state.y, tall, height);
    const share = Number(wipe.value) / 100;
    const left = wide / 2 - state.x * factor, top = tall / 2 - state.y * factor;
    const shown = visible();
    const clips = [`inset(0 ${100 - share * 100}% 0 0)`, `inset(0 0 0 ${share * 100}%)`];
    layers.forEach((layer, index) => {
      layer.hidden = !shown[index];
      layer.style.clipPath = state.mode === "wipe" ? clips[index] : isSplit() ? clipOfPane(index) : "none";
      const shift = isSplit() && index === 1 ? wide : 0;
      canvases[index].style.transform = `translate(${left + shift}px, ${top}px) scale(${factor})`;
      canvases[index].classList.toggle("sharp", factor * density() >= 2);
    });
    canvases[2].style.filter = `brightness(${state.gain})`;
    divider.hidden = wipe.hidden = state.mode !== "wipe";
    divider.style.left = `${share * 100}%`;
    if (isSplit()) {
      divider.hidden = false;
      divider.style.left = "50%";
    }
    divider.classList.toggle("thin", isSplit());
    wipe.setAttribute("aria-valuetext", `${Math.round(share * 100)} % left`);
    stage.classList.toggle("can-move", canMove());
    byId("tag-left").hidden = !(shown[0] || shown[2]);
    byId("tag-right").hidden = !(shown[1] || shown[2]);
    byId("zoom-note").hidden = !state.zoom;
    byId("zoom-note").textContent = state.zoom === 1 ? "1:1" : `${state.zoom.toFixed(1).replace(".0", "")}×`;
    Object.assign(stage.dataset, { mode: state.mode, zoom: state.zoom || "fit", scale: factor.toFixed(4) });
  }

  const clipOfPane = (index) => (index === 0 ? "inset(0 50% 0 0)" : "inset(0 0 0 50%)");

  function visible() {
    // Whether the left side, the right side and the difference are shown.
    if (state.mode === "difference") return [false, false, true];
    if (state.mode === "left") return [true, false, false];
    if (state.mode === "right") return [false, true, false];
    if (state.mode === "flicker") return [!state.flickerRight, state.flickerRight, false];
    return [true, true, false];
  }

  function canMove() {
    const [wide, tall] = pane();
    return width * scale() > wide + 0.5 || height * scale() > tall + 0.5;
  }

  function fitStage() {
    // As high as the images at full width, but not higher than most of the window.
    if (document.fullscreenElement) stage.style.height = "";
    else {
      const share = isSplit() ? 2 : 1;
      const natural = stage.clientWidth / share * height / width;
      stage.style.height = `${Math.round(Math.max(160, Math.min(natural, window.innerHeight * 0.72)))}px`;
    }
    layOut();
  }

  let flickering = 0;

  function setMode(mode) {
    state.mode = mode;
    document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
    clearInterval(flickering);
    state.flickerRight = false;
    if (mode === "flicker") {
      flickering = setInterval(() => {
        state.flickerRight = !state.flickerRight;
        layOut();
      }, FLICKER_MS);
    }
    byId("gain-label").hidden = mode !== "difference";
    drawDifference();
    fitStage();
  }

  const toggleMode = (mode) => setMode(state.mode === mode ? "wipe" : mode);

  function setZoom(zoom, atX, atY) {
    // Zooms about a point of the stage, by default its middle: that point keeps its place.
    const [wide, tall] = pane();
    const px = (atX ?? wide / 2) % wide - wide / 2, py = (atY ?? tall / 2) - tall / 2;
    const before = scale();
    const x = state.x + px / before, y = state.y + py / before;
    state.zoom = zoom ? Math.min(MAX_ZOOM, Math.max(1, zoom)) : 0;
    const after = scale();
    state.x = x - px / after;
    state.y = y - py / after;
    const value = state.zoom ? String(state.zoom) : "fit";
    for (const radio of document.querySelectorAll("input[name=zoom]")) radio.checked = radio.value === value;
    layOut();
  }

  function zoomBy(direction, atX, atY) {
    const current = scale() * density();
    const steps = [1, 2, 3, 4, 6, MAX_ZOOM];
    const next = direction > 0 ? steps.find((each) => each > current + 0.01)
      : steps.filter((each) => each < current - 0.01).pop();
    if (next) setZoom(next, atX, atY);
    else if (direction < 0 && fit() < 1) setZoom(0, atX, atY);
  }

  // ------------------------------------------------------------------------------------------------------ controls

  data.inputs.forEach((input, index) => {
    for (const name of ["left", "right"]) {
      const option = document.createElement("option");
      option.value = String(index);
      option.textContent = input.label;
      byId(name).append(option);
    }
  });
  data.parts.forEach((each, index) => {
    const option = document.createElement("option");
    option.value = String(index);
    option.textContent = each.label;
    byId("part").append(option);
  });
  byId("part-label").hidden = data.parts.length < 2;
  byId("left").addEventListener("change", (event) => choose(0, Number(event.target.value)));
  byId("right").addEventListener("change", (event) => choose(1, Number(event.target.value)));
  byId("part").addEventListener("change", (event) => choosePart(Number(event.target.value)));
  byId("swap").addEventListener("click", swap);
  byId("play").addEventListener("click", () => (state.playing ? pause() : play()));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("speed").addEventListener("change", (event) => {
    state.speed = Number(event.target.value);
    for (const side of sides) if (side && side.video) side.video.playbackRate = state.speed;
  });
  byId("gain").addEventListener("change", (event) => {
    state.gain = Number(event.target.value);
    layOut();
  });
  byId("pixels").addEventListener("change", (event) => {
    state.sharp = event.target.checked;
    present();
  });
  timeline.addEventListener("input", () => {
    pause();
    show(part().first + Number(timeline.value));
  });
  wipe.addEventListener("input", layOut);
  byId("modes").addEventListener("change", (event) => setMode(event.target.value));
  byId("zooms").addEventListener("change", (event) => setZoom(event.target.value === "fit" ? 0 : Number(event.target.value)));
  byId("fullscreen").hidden = !document.fullscreenEnabled;
  byId("fullscreen").addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("viewer").requestFullscreen();
  });
  document.addEventListener("fullscreenchange", fitStage);
  for (const button of document.querySelectorAll(".face")) {
    button.addEventListener("click", () => visit(data.faces[Number(button.dataset.face)]));
  }

  function swap() {
    const [left, right] = sides.map((side) => side.input);
    choose(0, right);
    choose(1, left);
  }

  function visit(face) {
    // Shows a face of the strip large enough to be judged.
    pause();
    const index = data.parts.findIndex((each) => face.frame >= each.first && face.frame <= lastOf(each));
    if (isClip) {
      choosePart(Math.max(0, index));
      state.frame = face.frame;
      show(face.frame);
    }
    const [wide, tall] = pane();
    const fitting = 0.7 * Math.min(wide, tall) * density() / (face.side * width);
    setZoom(Math.min(MAX_ZOOM, Math.max(1, Math.floor(fitting))));
    state.x = face.x * width;
    state.y = face.y * height;
    layOut();
    // The line of the wipe goes through the face.
    wipe.value = String(100 * ((face.x * width - state.x) * scale() / pane()[0] + 0.5));
    layOut();
    stage.scrollIntoView({ block: "nearest" });
    stage.focus({ preventScroll: true });
  }

  // -------------------------------------------------------------------------------------------- keys and pointers

  const keys = {
    " ": () => (state.playing ? pause() : play()),
    ",": () => isClip && step(-1),
    ".": () => isClip && step(1),
    0: () => toggleMode("difference"),
    1: () => toggleMode("left"),
    2: () => toggleMode("right"),
    f: () => toggleMode("flicker"),
    s: () => toggleMode("side"),
    w: () => setMode("wipe"),
    x: swap,
    "+": () => zoomBy(1),
    "=": () => zoomBy(1),
    "-": () => zoomBy(-1),
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const tag = event.target.tagName;
    if (tag === "SELECT" || (event.key === " " && (tag === "BUTTON" || event.target.type === "checkbox"))) return;
    if (event.target === stage && arrows[event.key] && canMove()) {
      const [x, y] = arrows[event.key];
      state.x += x * 60 / scale();
      state.y += y * 60 / scale();
      layOut();
      event.preventDefault();
      return;
    }
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) {
      action();
      event.preventDefault();
    }
  });

  const pointers = new Map();
  let pinch = 0;

  function place(event) {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.target === wipe || event.button > 0) return;
    pointers.set(event.pointerId, place(event));
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("moves");
    if (state.mode === "wipe" && !canMove()) moveWipe(event);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    pointers.set(event.pointerId, now);
    if (pointers.size === 2) return pinched();
    if (state.mode === "wipe" && !canMove()) return moveWipe(event);
    state.x -= (now[0] - before[0]) / scale();
    state.y -= (now[1] - before[1]) / scale();
    layOut();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      pinch = 0;
      if (!pointers.size) stage.classList.remove("moves");
    });
  }

  function moveWipe(event) {
    wipe.value = String(100 * place(event)[0] / stage.clientWidth);
    layOut();
  }

  function pinched() {
    const [[x1, y1], [x2, y2]] = [...pointers.values()];
    const distance = Math.hypot(x1 - x2, y1 - y2);
    if (pinch) {
      const zoom = scale() * density() * distance / pinch;
      setZoom(zoom < 1 ? 0 : zoom, (x1 + x2) / 2, (y1 + y2) / 2);
    }
    pinch = distance;
  }

  stage.addEventListener("wheel", (event) => {
    // With Ctrl, as a pinch on a touchpad; alone it scrolls the page.
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1 : -1, ...place(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    if (event.target !== wipe) setZoom(state.zoom ? 0 : 2, ...place(event));
  });

  // --------------------------------------------------------------------------------------------------------- start

  byId("stills").hidden = true;
  byId("viewer").hidden = false;
  byId("transport").hidden = !isClip;
  timeline.max = String(part().count - 1);
  new ResizeObserver(fitStage).observe(byId("viewer"));
  window.addEventListener("resize", fitStage);
  setMode("wipe");
  label();
  if (isClip && !document.createElement("video").canPlayType('video/mp4; codecs="avc1.640028"')) refuse("");
  choose(0, data.left);
  choose(1, data.right);
  describePlay();
})();
