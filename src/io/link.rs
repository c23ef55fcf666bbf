//! One socket.
