//! What the own relay says of itself to programs: its document (NIP-11, GRASP-01) and its operator's name (NIP-05).

use serde_json::{Map, Value, json};

use crate::limits::{
    CLIENT_SUBSCRIPTIONS_MAX, FUTURE_SECS_MAX, Limits, MESSAGE_BYTES_MAX, QUERY_LIMIT_MAX, SUBSCRIPTION_ID_CHARS_MAX,
};
use crate::settings::{Profile, Settings};

/// What the own relay does: events, deletion requests, this document, expiration, counts, reconciliation. Protected events
/// (NIP-70) are refused without a way to authenticate (NIP-42), which is that NIP's default, not its support.
const SUPPORTED_NIPS: [u16; 6] = [1, 9, 11, 40, 45, 77];

/// The GRASP documents of which every MUST is kept. The git data of the repos is another program's, and each of them asks for
/// some.
const SUPPORTED_GRASPS: [&str; 0] = [];

/// The NIP-11 document, JSON.
pub fn relay_info(settings: &Settings) -> String {
    let Settings { service, profile, .. } = settings;
    let mut document = json!({
        "name": profile.name.clone().unwrap_or_else(|| service.to_string()),
        "description": description(settings),
        "software": SOFTWARE,
        "version": env!("CARGO_PKG_VERSION"),
        "supported_nips": SUPPORTED_NIPS,
        "supported_grasps": SUPPORTED_GRASPS,
        // The version of the protocol of NIP-77, as relays that know it say.
        "negentropy": 1,
        "repo_acceptance_criteria": format!(
            "Announcements that list {service} in both clone and relays, and what their maintainers and repositories bring."
        ),
        "limitation": limitation(&settings.limits),
        // Nothing is removed for its age.
        "retention": [{ "time": null }],
    });
    let said = said(profile).into_iter().chain([
        ("self", settings.auth_key.as_ref().map(|key| json!(key.public_key().to_hex()))),
        ("curation", curation(settings).map(Value::from)),
    ]);
    if let Some(document) = document.as_object_mut() {
        document.extend(said.filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    document.to_string()
}

/// A package URL: this program, whoever runs it.
const SOFTWARE: &str = concat!("pkg:cargo/", env!("CARGO_PKG_NAME"));

/// What the relay is for, in the operator's words or ours.
pub(super) fn description(settings: &Settings) -> String {
    let ours = || {
        let service = &settings.service;
        format!("Every event of the git repositories that {service} hosts, brought in from all the relays they use.")
    };
    settings.profile.description.clone().unwrap_or_else(ours)
}

fn said(profile: &Profile) -> Vec<(&'static str, Option<Value>)> {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let words = |words: &[String]| (!words.is_empty()).then(|| json!(words));
    vec![
        ("icon", text(&profile.icon)),
        ("banner", text(&profile.banner)),
        ("contact", text(&profile.contact)),
        ("pubkey", profile.pubkey.map(|key| json!(key.to_hex()))),
        ("terms_of_service", text(&profile.terms_of_service)),
        ("privacy_policy", text(&profile.privacy_policy)),
        ("posting_policy", text(&profile.posting_policy)),
        ("relay_countries", words(&profile.countries)),
        ("language_tags", words(&profile.languages)),
        ("tags", words(&profile.tags)),
    ]
}

/// What the operator's lists keep out, or in, beyond what the policy does (GRASP-01); `None` if they are empty.
fn curation(settings: &Settings) -> Option<String> {
    let lists = [
        (!settings.deny_authors.is_empty(), "some authors are refused"),
        (!settings.deny_repos.is_empty(), "some repositories are refused"),
        (!settings.archive.is_empty(), "some repositories are kept that do not list this service"),
    ];
    let used: Vec<&str> = lists.into_iter().filter(|(used, _)| *used).map(|(_, what)| what).collect();
    (!used.is_empty()).then(|| format!("By the operator's lists, {}.", used.join(", ")))
}

/// What is enforced. The quotas have no name in NIP-11; 0 stands for no bound.
fn limitation(limits: &Limits) -> Value {
    json!({
        "max_message_length": MESSAGE_BYTES_MAX,
        // In characters: no event of more can be small enough.
        "max_content_length": limits.event_bytes_max,
        "max_subscriptions": CLIENT_SUBSCRIPTIONS_MAX,
        "max_limit": QUERY_LIMIT_MAX,
        "default_limit": QUERY_LIMIT_MAX,
        "max_subid_length": SUBSCRIPTION_ID_CHARS_MAX,
        "created_at_upper_limit": FUTURE_SECS_MAX,
        "min_pow_difficulty": 0,
        "auth_required": false,
        "payment_required": false,
        "restricted_writes": true,
        "quotas": {
            "author_events": limits.author_events_max,
            "author_bytes": limits.author_bytes_max,
            "author_repos": limits.author_repos_max,
            "repo_events": limits.repo_events_max,
            "repo_bytes": limits.repo_bytes_max,
        },
    })
}

/// The operator's name (NIP-05), JSON; `None` if no key is configured. `name`: whose key is asked for; the operator's is `_`.
pub fn names(settings: &Settings, name: Option<&str>) -> Option<String> {
    let key = settings.profile.pubkey?.to_hex();
    if name.is_some_and(|name| name != "_") {
        return Some(json!({ "names": {} }).to_string());
    }
    let relays = Map::from_iter([(key.clone(), json!([settings.service.relay_url()]))]);
    Some(json!({ "names": { "_": key }, "relays": relays }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::relay_url::Service;
    use crate::sync::testing::{addr, author};

    fn settings() -> Settings {
        Settings::of(Service::parse("git.example.org/path").unwrap())
    }

    fn document(settings: &Settings) -> Value {
        serde_json::from_str(&relay_info(settings)).unwrap()
    }

    #[test]
    fn the_document_is_json_with_the_limits_that_hold() {
        let document = document(&settings());
        assert_eq!(document["name"], "git.example.org/path");
        assert_eq!(document["supported_nips"], json!(SUPPORTED_NIPS));
        assert_eq!(document["negentropy"], 1);
        assert_eq!(document["limitation"]["max_limit"], QUERY_LIMIT_MAX);
        assert_eq!(document["limitation"]["max_message_length"], MESSAGE_BYTES_MAX);
        assert_eq!(document["limitation"]["max_content_length"], 196_608);
        assert_eq!(document["limitation"]["quotas"]["author_events"], 100_000);
    }

    #[test]
    fn nothing_is_claimed_that_is_not_done() {
        assert_eq!(document(&settings())["supported_grasps"], json!([]), "no git data is synced");
        for silent in ["curation", "self", "pubkey", "icon", "relay_countries"] {
            assert_eq!(document(&settings()).get(silent), None, "{silent}");
        }
        let curated = [
            Settings { deny_authors: vec![author(1)], ..settings() },
            Settings { deny_repos: vec![addr(1, "a")], ..settings() },
            Settings { archive: vec![addr(1, "a")], ..settings() },
        ];
        for settings in curated {
            assert!(document(&settings)["curation"].is_string());
        }
    }

    #[test]
    fn the_operator_is_said_as_he_says() {
        let mut settings = settings();
        settings.profile = Profile {
            name: Some("Ours".to_owned()),
            description: Some("For friends".to_owned()),
            pubkey: Some(author(1)),
            countries: vec!["DE".to_owned()],
            ..Profile::default()
        };
        let document = document(&settings);
        assert_eq!((&document["name"], &document["description"]), (&json!("Ours"), &json!("For friends")));
        assert_eq!(document["pubkey"], author(1).to_hex());
        assert_eq!(document["relay_countries"], json!(["DE"]));
    }

    #[test]
    fn the_operators_name_leads_to_the_key_and_to_this_relay() {
        let mut settings = settings();
        assert_eq!(names(&settings, None), None);
        settings.profile.pubkey = Some(author(1));
        let key = author(1).to_hex();
        for name in [None, Some("_")] {
            let document: Value = serde_json::from_str(&names(&settings, name).unwrap()).unwrap();
            assert_eq!(document["names"]["_"], key);
            assert_eq!(document["relays"][&key], json!(["wss://git.example.org/path"]));
        }
        assert_eq!(names(&settings, Some("bob")).unwrap(), r#"{"names":{}}"#);
    }
}
