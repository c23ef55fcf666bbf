//! Bodies of the fuzz targets in `fuzz/`. They compile with the crate, so that they cannot rot, and its tests run them
//! over the committed seeds. Each takes bytes, ignores those that make no sense, and panics where a property fails.

mod engine;
mod filter;
mod http;
mod link;
mod messages;
mod neg_server;
pub mod refusals;
mod repos;
mod shares;
mod store;
mod timers;

pub use crate::io::resolver::fuzz_answer as dns_answer;
pub use engine::engine;
pub use filter::filter;
pub use http::http_head;
pub use link::link;
pub use messages::{client_message, relay_message};
pub use neg_server::neg_server;
pub use repos::{announcement, relay_url};
pub use shares::shares;
pub use store::store;
pub use timers::timer_wheel;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Runs a body over the seeds of its target, and over each that was written by hand also with a piece cut out or
    /// doubled; those that the fuzzer found are many.
    fn run_seeds(target: &str, body: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for file in std::fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{}: {error}", seeds.display())) {
            let path = file.unwrap().path();
            let seed = std::fs::read(&path).unwrap();
            body(&seed);
            count += 1;
            if path.file_name().unwrap().to_string_lossy().starts_with("found-") {
                continue;
            }
            for at in (0..seed.len()).step_by(seed.len() / 32 + 1) {
                let end = (at + 7).min(seed.len());
                body(&[&seed[..at], &seed[end..]].concat());
                body(&[&seed[..end], &seed[at..]].concat());
            }
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn the_dictionary_has_every_refusal() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dictionaries/relay_message.dict");
        let dictionary = std::fs::read_to_string(path).unwrap();
        let of_json = |text: &str| serde_json::to_string(text).unwrap().trim_matches('"').to_owned();
        let entries: Vec<String> =
            dictionary.lines().filter_map(|line| serde_json::from_str::<String>(line).ok()).collect();
        let texts = super::refusals::WORDINGS.iter().flat_map(|wording| wording.split("{n}"));
        for text in texts.filter(|text| text.len() > 3) {
            assert!(entries.contains(&of_json(text)), "{text}");
        }
        for number in super::refusals::NUMBERS.iter().filter(|number| number.len() > 1) {
            assert!(entries.iter().any(|entry| entry == number), "{number}");
        }
    }

    #[test]
    fn seeds() {
        run_seeds("relay_message", super::relay_message);
        run_seeds("client_message", super::client_message);
        run_seeds("relay_url", super::relay_url);
        run_seeds("announcement", super::announcement);
        run_seeds("http_head", super::http_head);
        run_seeds("timer_wheel", super::timer_wheel);
        run_seeds("dns_answer", super::dns_answer);
        run_seeds("link", super::link);
        run_seeds("filter", super::filter);
        run_seeds("engine", super::engine);
        run_seeds("store", super::store);
        run_seeds("shares", super::shares);
        run_seeds("neg_server", super::neg_server);
    }
}
