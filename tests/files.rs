//! Few files may be open, and the doors answer all the same (spec section 16, "Files").
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]

mod support;

use std::net::TcpStream;
use support::client::Client;
use support::process::Setup;

#[test]
fn with_a_thousand_files_the_doors_answer_whoever_comes() {
    let process = Setup::new("grasp.test").files_max(1_024).start();
    let warned = process.log_text().matches("only 1024 files may be open").count();
    assert_eq!(warned, 1, "{}", process.log_text());
    let limit = |queue: &str| process.metrics().sum("grasp_sync_queue_limit", &[&format!("queue=\"{queue}\"")]);
    assert_eq!((limit("relays"), limit("clients")), (341.0, 170.0));
    let clients: Vec<Client> = (0..170).map(|_| process.client()).collect();
    // Whoever says nothing holds a file, too.
    let silent: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(process.relay()).expect("the door is open")).collect();
    assert_eq!(process.get("/health").status, 200);
    assert!(process.metrics().sum("grasp_sync_clients", &[]) >= 170.0);
    assert!(!process.log_has("cannot accept"), "{}", process.log_text());
    drop((clients, silent));
}
