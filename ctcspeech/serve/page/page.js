// The page of ctcspeech serve: microphone or recording to words, by the protocol of /v1/stream.
const $ = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const finals = []; // {text, start, end, words}
let session = null; // {socket, stop, sent: [[seconds, time]], rate, seconds, offset}
let offset = 0; // seconds of what was heard before in this page

function say(text, alarm = false) {
  $("status").textContent = text;
  $("status").classList.toggle("alarm", alarm);
}

function headers() {
  return $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
}

async function loadModels() {
  try {
    const answer = await fetch(new URL("v1/models", base), { headers: headers() });
    if (answer.status === 401) {
      say("This server wants a key: see Options.", true);
      document.querySelector("details").open = true;
      $("record").disabled = false;
      return;
    }
    const models = (await answer.json()).data;
    $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
    $("record").disabled = false;
    say("Ready.");
  } catch {
    say("The server does not answer.", true);
  }
}

function hotWords() {
  const words = {};
  for (const part of $("words").value.split(",")) {
    const [word, weight] = part.split(":").map((text) => text.trim());
    if (word) words[word] = weight && Number.isFinite(Number(weight)) ? Number(weight) : 5;
  }
  return words;
}

// -- words ------------------------------------------------------------------------------------

function kindOf(word) {
  if (word.confidence === null || word.confidence >= 0.9) return "sure";
  return word.confidence >= 0.6 ? "fair" : "unsure";
}

function spans(words, stable) {
  const nodes = [];
  words.forEach((word, i) => {
    const span = document.createElement("span");
    span.textContent = word.word;
    span.className = i < stable ? kindOf(word) : "open";
    if (word.confidence !== null) span.title = `confidence ${word.confidence.toFixed(2)}`;
    nodes.push(span, " ");
  });
  return nodes;
}

function clock(seconds, decimal) {
  const rest = seconds % 60;
  const minutes = Math.floor(seconds / 60) % 60;
  const hours = Math.floor(seconds / 3600);
  const two = (number) => String(number).padStart(2, "0");
  if (!decimal) return (hours ? `${hours}:${two(minutes)}` : `${minutes}`) + `:${two(Math.floor(rest))}`;
  const thousandths = Math.round(seconds * 1000) % 1000;
  return `${two(hours)}:${two(minutes)}:${two(Math.floor(rest))}${decimal}${String(thousandths).padStart(3, "0")}`;
}

function showPartial(message) {
  const stable = message.stable ? message.stable.split(" ").length : 0;
  $("current").replaceChildren(...spans(message.words, stable));
  $("hint").hidden = true;
}

function showFinal(message) {
  const shift = session ? session.offset : 0;
  const words = message.words.map((word) => ({ ...word, start: word.start + shift, end: word.end + shift }));
  const start = words.length ? words[0].start : message.start + shift;
  finals.push({ text: message.text, start, end: words.length ? words.at(-1).end : message.end + shift, words });
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock(start);
  const text = document.createElement("span");
  text.append(...spans(words, words.length));
  line.append(time, text);
  $("lines").append(line);
  $("current").replaceChildren();
  $("hint").hidden = true;
  for (const button of document.querySelectorAll(".download")) button.disabled = false;
  line.scrollIntoView({ block: "nearest" });
}

// Latency: from when the last sample that a result has heard was sent until the result is here.
function showLatency(message) {
  if (!session) return;
  const entry = session.sent.find(([seconds]) => seconds >= message.heard);
  if (entry) $("latency").textContent = `latency: ${Math.round(performance.now() - entry[1])} ms`;
  session.sent = session.sent.filter(([seconds]) => seconds >= message.heard - 1);
}

// -- a session --------------------------------------------------------------------------------

function open(rate) {
  const address = new URL("v1/stream", base);
  address.protocol = address.protocol.replace("http", "ws");
  const protocols = ["ctcspeech.v1"];
  if ($("key").value) protocols.push(`ctcspeech-key.${$("key").value}`);
  const socket = new WebSocket(address, protocols);
  const mine = { socket, rate, seconds: 0, sent: [], offset, stop: null };
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify({
      type: "start", version: 1, model: $("model").value || undefined, sample_rate: rate,
      encoding: "s16le", hot_words: hotWords(),
      endpointing: { silence_after_speech: Number($("silence").value) || 1.2 },
    }));
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type === "ready") resolve(mine);
      else if (message.type === "partial") { showPartial(message); showLatency(message); }
      else if (message.type === "final") { showLatency(message); showFinal(message); }
      else if (message.type === "error") { say(message.message, true); reject(new Error(message.message)); }
    };
    socket.onclose = (event) => {
      const reason = event.reason || (event.code === 4401 ? "a valid key is needed" : "the connection was closed");
      reject(new Error(reason));
      if (session === mine) finished(event.code === 1000 ? "Ready." : `Ended: ${reason}.`, event.code !== 1000);
    };
  });
}

function send(samples) {
  if (!session || session.socket.readyState !== WebSocket.OPEN) return;
  session.seconds += samples.byteLength / 2 / session.rate;
  session.sent.push([session.seconds, performance.now()]);
  session.socket.send(samples);
}

function finished(text, alarm = false) {
  if (session) {
    offset += session.seconds;
    if (session.stop) session.stop();
  }
  session = null;
  $("record").setAttribute("aria-pressed", "false");
  $("record").firstChild.textContent = "Start ";
  drawLevel(0);
  say(text, alarm);
}

function end() {
  if (!session) return;
  if (session.stop) session.stop();
  session.stop = null;
  if (session.socket.readyState === WebSocket.OPEN) session.socket.send('{"type": "end"}');
  say("Waiting for the last words.");
}

async function record() {
  if (session) return end();
  let context;
  let microphone;
  try {
    if (!navigator.mediaDevices) throw new Error("the browser gives a microphone only over https or on localhost");
    microphone = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    context = new AudioContext();
    await context.audioWorklet.addModule(new URL("worklet.js", base));
    session = await open(context.sampleRate);
  } catch (error) {
    if (microphone) for (const track of microphone.getTracks()) track.stop();
    if (context) context.close();
    finished(`No recording: ${error.message}.`, true);
    return;
  }
  const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
  context.createMediaStreamSource(microphone).connect(tap);
  tap.port.onmessage = ({ data }) => {
    send(data.samples);
    drawLevel(data.peak);
  };
  session.stop = () => {
    tap.port.onmessage = null;
    for (const track of microphone.getTracks()) track.stop();
    context.close();
  };
  $("record").setAttribute("aria-pressed", "true");
  $("record").firstChild.textContent = "Stop ";
  say("Listening.");
}

async function transcribe(file) {
  if (!file || session) return;
  say(`Reading ${file.name}.`);
  let context;
  try {
    context = new AudioContext();
    const sound = await context.decodeAudioData(await file.arrayBuffer());
    const channel = sound.getChannelData(0);
    session = await open(sound.sampleRate);
    const mine = session;
    const size = Math.round(sound.sampleRate / 10);
    for (let i = 0; i < channel.length && session === mine; i += size) {
      const part = channel.subarray(i, i + size);
      send(Int16Array.from(part, (value) => Math.max(-1, Math.min(1, value)) * 32767).buffer);
      while (session === mine && mine.socket.bufferedAmount > 1 << 18) await new Promise((go) => setTimeout(go, 20));
    }
    end();
  } catch (error) {
    finished(`${file.name} cannot be read: ${error.message}.`, true);
  } finally {
    if (context) context.close();
  }
}

// -- level, downloads, keys -------------------------------------------------------------------

function drawLevel(peak) {
  const canvas = $("level");
  const paint = canvas.getContext("2d");
  const share = peak > 0 ? Math.max(0, 1 + Math.log10(peak) / 3) : 0; // 60 dB
  paint.clearRect(0, 0, canvas.width, canvas.height);
  paint.fillStyle = getComputedStyle(document.body).getPropertyValue(peak > 0.98 ? "--alarm" : "--accent");
  paint.fillRect(0, 0, share * canvas.width, canvas.height);
}

function written(format) {
  if (format === "txt") return finals.map((line) => line.text + "\n").join("");
  const mark = format === "srt" ? "," : ".";
  const cues = finals.map((line, i) => {
    const number = format === "srt" ? `${i + 1}\n` : "";
    return `${number}${clock(line.start, mark)} --> ${clock(Math.max(line.end, line.start + 0.5), mark)}\n${line.text}\n`;
  });
  return (format === "vtt" ? "WEBVTT\n\n" : "") + cues.join("\n");
}

function download(format) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([written(format)], { type: "text/plain" }));
  link.download = `speech.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  finals.length = 0;
  $("lines").replaceChildren();
  $("current").replaceChildren();
  $("hint").hidden = false;
  for (const button of document.querySelectorAll(".download")) button.disabled = true;
}

$("record").addEventListener("click", record);
$("clear").addEventListener("click", clear);
$("file").addEventListener("change", () => { transcribe($("file").files[0]); $("file").value = ""; });
$("key").addEventListener("change", loadModels);
$("words").addEventListener("change", () => {
  if (session && session.socket.readyState === WebSocket.OPEN) {
    session.socket.send(JSON.stringify({ type: "hot_words", hot_words: hotWords() }));
  }
});
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") transcribe(event.dataTransfer.files[0]);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "r" || event.key === "R") record();
  else if (event.key === "c" || event.key === "C") clear();
});
loadModels();
