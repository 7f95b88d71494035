package udp

// HasSockets reports whether the system has UDP sockets. Browsers and WASI have
// none: those that package net offers there do not leave the program.
const HasSockets = false
