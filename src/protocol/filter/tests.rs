use std::collections::BTreeSet;

use nostr::event::{EventId, Kind, Signature};
use nostr::filter::{Filter as Asked, MatchEventOptions, SingleLetterTag};
use nostr::key::PublicKey;
use nostr::types::Timestamp;

use super::*;
use crate::limits::CLIENT_FILTER_VALUES_MAX;
use crate::store::testing::{Random, author};

const KEY: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn read(json: &str) -> Option<Filter> {
    serde_json::from_str(json).ok()
}

fn event() -> Event {
    let tags = [["e", "x"], ["p", "y"], ["e", "z"]].map(|tag| Tag::parse(tag).unwrap());
    let (id, key) = (EventId::from_byte_array([1; 32]), PublicKey::from_hex(KEY).unwrap());
    Event::new(
        id,
        key,
        Timestamp::from_secs(1_000),
        Kind::from_u16(1621),
        tags,
        "",
        Signature::from_byte_array([0; 64]),
    )
}

#[test]
fn a_filter_with_everything() {
    let json = format!(
        r##"{{"ids":["{0}"],"authors":["{KEY}"],"kinds":[1,65535],"since":1,"until":18446744073709551615,
        "limit":0,"#e":["x","x"],"#A":["30617:{KEY}:a:b"],"search":"s","other":[{{"a":[]}}]}}"##,
        "1".repeat(64)
    );
    let filter = read(&json).unwrap();
    assert_eq!(filter, serde_json::from_str::<Asked>(&json).unwrap().into());
    assert_eq!(filter.values(), 6);
    assert_eq!((filter.kinds(), filter.limit()), (Some(&[1, 65_535][..]), Some(0)));
    assert_eq!((filter.since().as_secs(), filter.until().as_secs()), (1, u64::MAX));
}

#[test]
fn null_is_no_condition_and_an_empty_list_is_one() {
    assert_eq!(read(r##"{"ids":null,"since":null,"until":null,"limit":null,"#e":null}"##), Some(Filter::default()));
    assert!(Filter::default().matches(&event()) && !Filter::default().matches_nothing());
    for empty in [r#"{"ids":[]}"#, r#"{"authors":[]}"#, r#"{"kinds":[]}"#, r##"{"#e":[]}"##] {
        let filter = read(empty).unwrap();
        assert!(!filter.matches(&event()) && filter.matches_nothing(), "{empty}");
    }
    assert!(read(r#"{"since":2,"until":1}"#).unwrap().matches_nothing());
    assert!(!read(r#"{"since":1,"until":1}"#).unwrap().matches_nothing());
}

#[test]
fn wrong_filters_are_refused() {
    for json in [
        "null".to_owned(),
        "[]".to_owned(),
        r#"{"ids":["abcd"]}"#.to_owned(),
        r#"{"ids":"x"}"#.to_owned(),
        r#"{"ids":{}}"#.to_owned(),
        r#"{"ids":[1]}"#.to_owned(),
        format!(r#"{{"authors":["{}"]}}"#, KEY.to_uppercase()),
        format!(r#"{{"authors":["{KEY}00"]}}"#),
        r#"{"kinds":[65536]}"#.to_owned(),
        r#"{"kinds":[-1]}"#.to_owned(),
        r#"{"kinds":[1.0]}"#.to_owned(),
        r#"{"kinds":["1"]}"#.to_owned(),
        r#"{"kinds":[1],"kinds":[2]}"#.to_owned(),
        r#"{"since":-1}"#.to_owned(),
        r#"{"until":"1"}"#.to_owned(),
        r#"{"limit":-1}"#.to_owned(),
        r#"{"limit":1,"limit":1}"#.to_owned(),
        r#"{"since":1,"since":1}"#.to_owned(),
        r##"{"#e":["a"],"#e":["b"]}"##.to_owned(),
        r##"{"#e":["a"],"#p":["b"],"#e":null}"##.to_owned(),
        r##"{"#e":[null]}"##.to_owned(),
        r##"{"#ee":["a"]}"##.to_owned(),
        r##"{"#1":["a"]}"##.to_owned(),
        r##"{"#":["a"]}"##.to_owned(),
    ] {
        assert_eq!(read(&json), None, "{json}");
    }
}

#[test]
fn too_many_values_are_seen_but_not_kept() {
    let list = |n: usize| (0..n).map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(",");
    let json = format!(r##"{{"#a":[{}],"#e":[{}],"kinds":[1]}}"##, list(CLIENT_FILTER_VALUES_MAX), list(50));
    assert_eq!(read(&json).unwrap().values(), CLIENT_FILTER_VALUES_MAX + 1);
    let json = format!(r##"{{"#a":[{}]}}"##, list(CLIENT_FILTER_VALUES_MAX));
    assert_eq!(read(&json).unwrap().values(), CLIENT_FILTER_VALUES_MAX);
    // One value may be said as often as a message has room, and what follows the last that counts is not looked at.
    let json = format!(r##"{{"#a":[{0},{0},{0}]}}"##, list(CLIENT_FILTER_VALUES_MAX));
    assert_eq!(read(&json).unwrap().values(), CLIENT_FILTER_VALUES_MAX);
    let json = format!(r##"{{"#a":["0","0",{},"one more"]}}"##, list(CLIENT_FILTER_VALUES_MAX));
    assert_eq!(read(&json).unwrap().values(), CLIENT_FILTER_VALUES_MAX + 1);
    let json = format!(r##"{{"#a":[{},"one more",5]}}"##, list(CLIENT_FILTER_VALUES_MAX));
    assert_eq!(read(&json).unwrap().values(), CLIENT_FILTER_VALUES_MAX + 1);
}

#[test]
fn each_condition_decides() {
    let event = event();
    for (json, matches) in [
        (r#"{"since":1000,"until":1000,"limit":0}"#, true),
        (r#"{"since":1001}"#, false),
        (r#"{"until":999}"#, false),
        (r#"{"kinds":[1,1621]}"#, true),
        (r#"{"kinds":[1]}"#, false),
        (r##"{"#e":["z"],"#p":["y","q"]}"##, true),
        (r##"{"#e":["z"],"#p":["q"]}"##, false),
        (r##"{"#E":["z"]}"##, false),
        (r#"{"ids":["0101010101010101010101010101010101010101010101010101010101010101"]}"#, true),
        (r#"{"ids":["0202020202020202020202020202020202020202020202020202020202020202"]}"#, false),
        (r#"{"authors":["79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"]}"#, true),
        (r#"{"authors":["0202020202020202020202020202020202020202020202020202020202020202"]}"#, false),
    ] {
        assert_eq!(agreed(&read(json).unwrap(), &event), matches, "{json}");
        let asked: Asked = serde_json::from_str(json).unwrap();
        assert_eq!(asked.match_event(&event, MatchEventOptions::new()), matches, "{json}");
    }
}

/// Whether a filter matches, in both ways of looking at tags.
fn agreed(filter: &Filter, event: &Event) -> bool {
    let matches = filter.matches(event);
    assert_eq!(filter.matches_tags(&EventTags::of(event)), matches, "{filter:?} {event:?}");
    matches
}

/// Few, some of which differ in nothing but their form.
fn tag_value(random: &mut Random) -> String {
    let digits = format!("{:062x}", random.below(2));
    match random.below(9) {
        0 => format!("{digits}ab"),
        1 => format!("{digits}AB"),
        2 => format!("{digits}a"),
        3 => format!("{digits}abc"),
        4 => format!("{digits}ag"),
        5 => String::new(),
        6 => format!("é{}", random.below(3)),
        7 => "\u{ab}".to_owned(),
        _ => random.below(3).to_string(),
    }
}

const LETTERS: [char; 3] = ['e', 'E', 'p'];

fn random_event(random: &mut Random) -> Event {
    // Many tags or few: one list or the other is the longer.
    let tags_max = if random.chance(3) { 40 } else { 4 };
    let tags = random.below(tags_max);
    let mut names = ["e", "E", "p", "ee", "é", "-"].into_iter().cycle();
    let tags: Vec<Tag> = (0..tags)
        .map(|_| {
            let name = names.nth(random.below(6) as usize).unwrap();
            let tag: Vec<String> = match random.chance(8) {
                true => vec![name.to_owned()],
                false => vec![name.to_owned(), tag_value(random), tag_value(random)],
            };
            Tag::parse(tag).unwrap()
        })
        .collect();
    let id = EventId::from_byte_array([random.below(4) as u8; 32]);
    let (at, kind) = (Timestamp::from_secs(random.below(4)), Kind::from_u16(random.below(4) as u16));
    Event::new(id, author(random.below(4) as u8), at, kind, tags, "", Signature::from_byte_array([0; 64]))
}

fn random_filter(random: &mut Random) -> Asked {
    let mut filter = Asked::new();
    if random.chance(4) {
        filter = filter.ids((0..=random.below(3)).map(|_| EventId::from_byte_array([random.below(4) as u8; 32])));
    }
    if random.chance(4) {
        filter = filter.authors((0..=random.below(3)).map(|_| author(random.below(4) as u8)));
    }
    if random.chance(4) {
        filter = filter.kinds((0..=random.below(3)).map(|_| Kind::from_u16(random.below(4) as u16)));
    }
    for letter in LETTERS {
        if random.chance(2) {
            let values: Vec<String> = (0..=random.below(12)).map(|_| tag_value(random)).collect();
            filter = filter.custom_tags(SingleLetterTag::from_char(letter).unwrap(), values);
        }
    }
    if random.chance(4) {
        filter = filter.since(Timestamp::from_secs(random.below(4)));
    }
    if random.chance(4) {
        filter = filter.until(Timestamp::from_secs(random.below(4)));
    }
    if random.chance(4) {
        filter = filter.limit(random.below(4) as usize);
    }
    filter
}

#[test]
fn it_is_read_and_matches_as_nostr_has_it() {
    let mut random = Random(1);
    let events: Vec<Event> = (0..200).map(|_| random_event(&mut random)).collect();
    let mut matching = 0;
    for _ in 0..2_000 {
        let asked = random_filter(&mut random);
        let filter = read(&serde_json::to_string(&asked).unwrap()).unwrap();
        assert_eq!(filter, Filter::from(asked.clone()));
        assert_eq!(filter, Asked::from(&filter).into());
        for event in &events {
            let wanted = asked.match_event(event, MatchEventOptions::new());
            assert_eq!(agreed(&filter, event), wanted, "{asked:?} {event:?}");
            matching += usize::from(wanted);
        }
    }
    assert!(matching > 10_000, "the filters are worth a test: {matching}");
}

#[test]
fn a_filter_takes_32_bytes_for_an_id_and_few_beside_the_text_of_another_value() {
    let mut random = Random(2);
    for _ in 0..500 {
        let asked = random_filter(&mut random);
        let listed = |list: Option<usize>, bytes: usize| list.unwrap_or(0) * bytes;
        let mut bytes = size_of::<Filter>()
            + listed(asked.ids.as_ref().map(BTreeSet::len), 32)
            + listed(asked.authors.as_ref().map(BTreeSet::len), 32)
            + listed(asked.kinds.as_ref().map(BTreeSet::len), 2);
        for values in asked.generic_tags.values() {
            let is_id = |value: &String| value.len() == 64 && value.bytes().all(|b| b"0123456789abcdef".contains(&b));
            let of_value = |value: &String| if is_id(value) { 32 } else { 4 + value.len() };
            bytes += size_of::<TagValues>() + values.iter().map(of_value).sum::<usize>();
        }
        assert_eq!(Filter::from(asked.clone()).bytes(), bytes, "{asked:?}");
    }
    assert!(size_of::<Filter>() <= 112 && size_of::<TagValues>() <= 64);
}

#[test]
fn the_narrowest_list_is_found() {
    let narrowest = |json: &str| format!("{:?}", read(json).unwrap().narrowest());
    let id = "1".repeat(64);
    assert_eq!(narrowest(r#"{"since":1}"#), "Any");
    assert_eq!(narrowest(r#"{"kinds":[7]}"#), "Kinds([7])");
    let authors = narrowest(&format!(r#"{{"kinds":[7],"authors":["{id}"]}}"#));
    assert!(authors.starts_with("Authors(["), "{authors}");
    let filter = read(r##"{"authors":[],"#e":["a","b"],"#t":["c"]}"##).unwrap();
    let Narrowest::Tag(tag) = filter.narrowest() else { panic!() };
    assert_eq!((tag.letter(), tag.iter().collect::<Vec<_>>()), (b't', vec![TagValue::Text("c")]));
    let ids = narrowest(&format!(r##"{{"#t":["c"],"ids":["{id}","{}"]}}"##, "2".repeat(64)));
    assert!(ids.starts_with("Ids([["), "{ids}");
}
