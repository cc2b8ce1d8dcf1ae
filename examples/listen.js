// Prints what is said: node examples/listen.js [events.sock]
"use strict";
const net = require("net");
const readline = require("readline");

const path = process.argv[2] || `${process.env.XDG_RUNTIME_DIR}/duplex-asr/events.sock`;
const socket = net.connect(path);
socket.on("error", (error) => {
  console.error(`${path}: ${error.message}`);
  process.exit(1);
});
socket.write('{"type": "subscribe", "events": ["transcript"]}\n');
readline.createInterface({ input: socket }).on("line", (line) => {
  const event = JSON.parse(line);
  if (event.type === "transcript") console.log(event.text);
});
