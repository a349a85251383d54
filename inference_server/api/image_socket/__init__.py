"""The image socket: one chest X-ray over TCP, pneumonia or normal; see docs/protocols/image-socket.md."""
