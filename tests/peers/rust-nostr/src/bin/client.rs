//! A stock client (`nostr-sdk`) against one relay: `client URL DIRECTORY`.
//!
//! The directory holds, as lines of JSON, what the relay stores (`held`), what it must take (`accepted`) and what it must
//! refuse (`refused`). What a question should bring is judged by the library's own filters. Ends with an error at the
//! first answer that differs.

use nostr::filter::MatchEventOptions;
use nostr_sdk::prelude::*;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Events that the relay gives for one filter, at most.
const PAGE: usize = 500;

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, directory] = arguments.as_slice() else { return Err("usage: client URL DIRECTORY".into()) };
    let directory = Path::new(directory);
    let held = events(&directory.join("held"))?;
    let client = connected(url).await?;
    for (name, filter) in questions(&held) {
        ask(&client, name, filter, &held).await?;
    }
    let publisher = connected(url).await?;
    arrive_live(&client, &publisher, &events(&directory.join("accepted"))?).await?;
    for event in events(&directory.join("refused"))? {
        let output = publisher.send_event(&event).await?;
        let why = output.failed.values().next().ok_or_else(|| format!("taken: {}", event.as_json()))?;
        println!("an event of kind {} is refused: {why}", event.kind);
    }
    Ok(())
}

fn events(file: &Path) -> Outcome<Vec<Event>> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.lines().map(Event::from_json).collect::<Result<_, _>>()?)
}

async fn connected(url: &str) -> Outcome<Client> {
    let client = Client::new();
    client.add_relay(url).await?;
    let output = client.try_connect().timeout(ANSWER).await;
    if output.success.is_empty() {
        return Err(format!("no connection: {:?}", output.failed).into());
    }
    Ok(client)
}

fn questions(held: &[Event]) -> Vec<(&'static str, Filter)> {
    let of_kind = |kind: u16| held.iter().filter(move |e| e.kind == Kind::from(kind));
    let repo = of_kind(30_617).nth(3).expect("a repo");
    let issue = of_kind(1_621).nth(5).expect("an issue");
    let comment = of_kind(1_111).nth(7).expect("a comment");
    let d = repo.tags.iter().find(|t| t.as_slice()[0] == "d").expect("a repo has a name").as_slice()[1].clone();
    let address = format!("30617:{}:{d}", repo.pubkey);
    let root =
        comment.tags.iter().find(|t| t.as_slice()[0] == "E").expect("a comment has a root").as_slice()[1].clone();
    let unknown = EventId::from_byte_array([7; 32]);
    let (day, all) = (86_400, Filter::new());
    let since = |back: u64| Timestamp::from_secs(issue.created_at.as_secs() - back);
    let until = |on: u64| Timestamp::from_secs(issue.created_at.as_secs() + on);
    let upper_e = SingleLetterTag::uppercase(Alphabet::E);
    let lower_a = SingleLetterTag::lowercase(Alphabet::A);
    vec![
        ("ids, one of them unknown", all.clone().ids([repo.id, issue.id, comment.id, unknown])),
        ("kind", all.clone().kind(Kind::from(30_617))),
        ("kinds, with a limit", all.clone().kinds([Kind::from(1_621), Kind::from(1_618)]).limit(40)),
        ("author", all.clone().author(issue.pubkey)),
        ("author and kind", all.clone().author(comment.pubkey).kind(Kind::from(1_111))),
        ("address, in #a", all.clone().custom_tag(lower_a, address)),
        ("root event, in #E", all.clone().custom_tag(upper_e, root)),
        ("author and identifier", all.clone().author(repo.pubkey).identifier(d)),
        ("since and until", all.clone().since(since(day)).until(until(day))),
        ("until, with a limit", all.clone().until(issue.created_at).limit(25)),
        (
            "since, until, kind, limit",
            all.clone().kind(Kind::from(1_111)).since(since(30 * day)).until(until(0)).limit(11),
        ),
        ("everything", all.clone()),
        ("nothing", all.kind(Kind::from(1_618)).author(repo.pubkey)),
    ]
}

async fn ask(client: &Client, name: &str, filter: Filter, held: &[Event]) -> Outcome {
    let options = MatchEventOptions::new();
    let mut expected: Vec<&Event> = held.iter().filter(|e| filter.match_event(e, options)).collect();
    expected.sort_by_key(|e| (std::cmp::Reverse(e.created_at), e.id));
    expected.truncate(filter.limit.unwrap_or(PAGE).min(PAGE));
    let expected: BTreeSet<EventId> = expected.iter().map(|e| e.id).collect();
    let answer = client.fetch_events(filter).timeout(ANSWER).await?;
    let answer: BTreeSet<EventId> = answer.into_iter().map(|e| e.id).collect();
    if answer != expected {
        let missing = expected.difference(&answer).count();
        return Err(format!("{name}: {} events for {}, {missing} missing", answer.len(), expected.len()).into());
    }
    println!("{name}: {} events", answer.len());
    Ok(())
}

/// What one client publishes, another gets live.
async fn arrive_live(client: &Client, publisher: &Client, accepted: &[Event]) -> Outcome {
    let mut notifications = client.notifications();
    client.subscribe(Filter::new().since(accepted[0].created_at)).await?;
    for event in accepted {
        let output = publisher.send_event(event).await?;
        if output.success.is_empty() {
            return Err(format!("an event of kind {} is refused: {:?}", event.kind, output.failed).into());
        }
    }
    let mut waited_for: BTreeSet<EventId> = accepted.iter().map(|e| e.id).collect();
    let arrived = async {
        while !waited_for.is_empty() {
            match notifications.next().await {
                Some(ClientNotification::Event { event, .. }) => waited_for.remove(&event.id),
                Some(_) => continue,
                None => break,
            };
        }
    };
    tokio::time::timeout(ANSWER, arrived).await.map_err(|_| "not every published event arrived live")?;
    println!("published and arrived live: {} events", accepted.len());
    Ok(())
}
