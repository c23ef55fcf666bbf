//! The end of a sweep needs evidence (spec section 6): relays whose pages do not mean what they seem to, each with one
//! repo of 149 issues. In the end all of them are held; or what cannot be had is a counted gap, the relay's coverage says
//! that it is not full, and the repo stays unconfirmed.

mod poison;

use crate::clock::{HOUR, MILLI};
use crate::events::EventRef;
use crate::model_relay::{Late, MaxLimit, Oddities, OnClose, Prompt, RelayConfig, Spoiling};
use crate::rng::Rng;
use crate::scenario;
use crate::setup::{OLD, Village};
use crate::world::World;

/// Issues of the repo.
const ISSUES: u64 = 149;
/// Its issues and its announcement.
const ALL: usize = ISSUES as usize + 1;
/// Events of one answer on most of these relays.
const PAGE: usize = 60;
/// Events that fill such an answer, and more.
const MORE_THAN_A_PAGE: u64 = 70;
/// Seeds of mixtures.
const MIXTURES: u64 = 12;

/// What a scenario comes to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    held: usize,
    coverage: String,
    confirmed: bool,
    gaps: u64,
}

impl End {
    /// Everything is held, and the program says so.
    fn whole() -> End {
        End { held: ALL, coverage: "full".to_owned(), confirmed: true, gaps: 0 }
    }

    /// Whether something is said to be missing in each of the three ways in which it must be said.
    fn admits_a_gap(&self) -> bool {
        self.gaps > 0 && self.coverage != "full" && !self.confirmed
    }
}

/// One relay, at which the program begins, with a repo.
struct Hamlet {
    v: Village,
    /// Its issues, oldest first.
    issues: Vec<EventRef>,
}

impl Hamlet {
    /// `at`: the time of the `n`th issue.
    fn build(w: &mut World, config: RelayConfig, at: impl Fn(u64) -> u64) -> Hamlet {
        let v = Village::alone(w, config);
        let issues: Vec<EventRef> = (0..ISSUES).map(|n| v.owner.issue(&v.repo, at(n), &format!("issue {n}"))).collect();
        w.hold_all("hub", &issues);
        Hamlet { v, issues }
    }

    /// The relay also stores so many spoiled events, at these times.
    fn spoil(&self, w: &mut World, spoilings: &[Spoiling], count: u64, at: impl Fn(u64) -> u64) {
        for n in 0..count {
            let model = self.v.owner.issue(&self.v.repo, at(n), &format!("spoiled {n}"));
            let spoiled = spoilings[n as usize % spoilings.len()].spoil(&model);
            w.forbid(&spoiled, "it is spoiled");
            w.relay("hub").hold_spoiled(&spoiled);
        }
    }

    /// What there is an hour after the start: long before the daily turn.
    fn end(&self, w: &mut World) -> End {
        w.start();
        w.run_for(HOUR);
        End {
            held: ALL - w.missing(self.issues.iter().chain([&self.v.announcement])),
            coverage: w.relay_status("hub")["coverage"].as_str().unwrap_or_default().to_owned(),
            confirmed: w.is_confirmed("hub", &self.v.repo),
            gaps: w.metric("grasp_sync_sweep_gaps_total"),
        }
    }
}

/// A minute apart.
fn minutely(n: u64) -> u64 {
    OLD + 60 * (n + 1)
}

/// Behind the newest issue.
fn above(n: u64) -> u64 {
    minutely(ISSUES) + 60 * n
}

/// Between two issues halfway.
fn in_the_middle(n: u64) -> u64 {
    minutely(ISSUES / 2) + 1 + n * 58 / MORE_THAN_A_PAGE
}

/// So many in each second, a minute apart.
fn together(count: u64) -> impl Fn(u64) -> u64 {
    move |n| minutely(n / count)
}

fn paged() -> RelayConfig {
    RelayConfig::capped(PAGE)
}

/// Issues a minute apart, and these spoiled events.
fn among(name: &'static str, spoilings: &[Spoiling], count: u64, at: impl Fn(u64) -> u64, judge: impl Fn(End)) {
    scenario(name, |w| {
        let hamlet = Hamlet::build(w, paged(), minutely);
        hamlet.spoil(w, spoilings, count, &at);
        judge(hamlet.end(w));
    });
}

/// Everything is held.
#[track_caller]
fn is_whole(end: End) {
    assert_eq!(end, End::whole());
}

#[test]
fn a_page_of_forged_events_above_is_stepped_over() {
    let name = "a_page_of_forged_events_above_is_stepped_over";
    among(name, &Spoiling::FORGED, MORE_THAN_A_PAGE, above, is_whole);
}

#[test]
fn a_page_of_forged_events_in_the_middle_is_stepped_over() {
    let name = "a_page_of_forged_events_in_the_middle_is_stepped_over";
    among(name, &Spoiling::FORGED, MORE_THAN_A_PAGE, in_the_middle, is_whole);
}

#[test]
fn forged_events_in_one_second_are_stepped_over() {
    let name = "forged_events_in_one_second_are_stepped_over";
    among(name, &Spoiling::FORGED, 40, |_| in_the_middle(9), is_whole);
}

/// Nobody can know what hides among them.
#[test]
fn a_page_of_forged_events_in_one_second_hides_nothing_older() {
    let name = "a_page_of_forged_events_in_one_second_hides_nothing_older";
    among(
        name,
        &Spoiling::FORGED,
        MORE_THAN_A_PAGE,
        |_| in_the_middle(9),
        |end| {
            assert_eq!(end.held, ALL, "{end:?}");
            assert!(end == End::whole() || end.admits_a_gap(), "{end:?}");
        },
    );
}

#[test]
fn a_page_of_fractions_above_is_stepped_over() {
    let name = "a_page_of_fractions_above_is_stepped_over";
    among(name, &[Spoiling::Fraction], MORE_THAN_A_PAGE, above, is_whole);
}

#[test]
fn a_page_of_fractions_in_the_middle_is_stepped_over() {
    let name = "a_page_of_fractions_in_the_middle_is_stepped_over";
    among(name, &[Spoiling::Fraction], MORE_THAN_A_PAGE, in_the_middle, is_whole);
}

#[test]
fn a_page_of_times_in_quotes_above_is_stepped_over() {
    let name = "a_page_of_times_in_quotes_above_is_stepped_over";
    among(name, &[Spoiling::Text], MORE_THAN_A_PAGE, above, is_whole);
}

/// Where the relay files them only questions with other bounds can tell.
#[test]
fn a_page_of_events_without_a_time_ends_no_sweep_silently() {
    let name = "a_page_of_events_without_a_time_ends_no_sweep_silently";
    among(name, &[Spoiling::Untimed], MORE_THAN_A_PAGE, above, |end| {
        assert!(end == End::whole() || end.admits_a_gap(), "{end:?}");
    });
}

fn limited(max_limit: MaxLimit) -> RelayConfig {
    RelayConfig::strfry().odd(Oddities { max_limit: Some(max_limit), ..Oddities::default() })
}

/// Of forty issues in one second fifteen can be had, of one repo and one author.
fn crowded(name: &'static str, max_limit: MaxLimit) {
    scenario(name, |w| {
        let crowded = |n: u64| minutely(if (60..100).contains(&n) { 60 } else { n });
        let end = Hamlet::build(w, limited(max_limit), crowded).end(w);
        assert_eq!(end.held, ALL - 25, "{end:?}");
        assert!(end.admits_a_gap(), "{end:?}");
    });
}

#[test]
fn a_second_fuller_than_an_advertised_max_limit_of_15_is_a_gap() {
    crowded("a_second_fuller_than_an_advertised_max_limit_of_15_is_a_gap", MaxLimit::Advertised(15));
}

#[test]
fn a_second_fuller_than_a_silent_max_limit_of_15_is_a_gap() {
    crowded("a_second_fuller_than_a_silent_max_limit_of_15_is_a_gap", MaxLimit::Silent(15));
}

#[test]
fn seconds_below_a_max_limit_of_15_are_read_to_the_end() {
    for max_limit in [MaxLimit::Advertised(15), MaxLimit::Silent(15)] {
        scenario("seconds_below_a_max_limit_of_15_are_read_to_the_end", |w| {
            is_whole(Hamlet::build(w, limited(max_limit), together(12)).end(w));
        });
    }
}

/// Several issues in each second, so that a page of 58 ends among them.
fn bounded(name: &'static str, odd: Oddities) {
    scenario(name, |w| {
        is_whole(Hamlet::build(w, RelayConfig::capped(58).odd(odd), together(4)).end(w));
    });
}

#[test]
fn an_until_that_excludes_its_second_loses_no_page_end() {
    let odd = Oddities { until_exclusive: true, ..Oddities::default() };
    bounded("an_until_that_excludes_its_second_loses_no_page_end", odd);
}

#[test]
fn a_limit_that_keeps_the_oldest_is_read_upwards() {
    let odd = Oddities { oldest_first: true, ..Oddities::default() };
    scenario("a_limit_that_keeps_the_oldest_is_read_upwards", |w| {
        is_whole(Hamlet::build(w, paged().odd(odd), minutely).end(w));
    });
}

#[test]
fn a_limit_that_keeps_the_oldest_beside_a_since_that_excludes_loses_no_page_end() {
    let odd = Oddities { oldest_first: true, since_exclusive: true, ..Oddities::default() };
    bounded("a_limit_that_keeps_the_oldest_beside_a_since_that_excludes_loses_no_page_end", odd);
}

fn late(name: &'static str, on_close: OnClose) {
    for prompt in [Prompt::First(0), Prompt::First(20), Prompt::OneOf(3)] {
        scenario(name, |w| {
            let late = Some(Late { by: 300 * MILLI, prompt, on_close });
            let config = paged().odd(Oddities { late, ..Oddities::default() });
            let end = Hamlet::build(w, config, minutely).end(w);
            assert_eq!(end, End::whole(), "{prompt:?} before EOSE");
        });
    }
}

#[test]
fn events_that_follow_eose_count_where_close_does_not_stop_them() {
    late("events_that_follow_eose_count_where_close_does_not_stop_them", OnClose::Sends);
}

#[test]
fn events_that_follow_eose_count_where_close_stops_them() {
    late("events_that_follow_eose_count_where_close_stops_them", OnClose::Drops);
}

#[test]
fn a_relay_that_was_punctual_and_becomes_late_is_believed_no_longer() {
    for on_close in [OnClose::Sends, OnClose::Drops] {
        scenario("a_relay_that_was_punctual_and_becomes_late_is_believed_no_longer", |w| {
            let hamlet = Hamlet::build(w, paged(), minutely);
            assert_eq!(hamlet.end(w), End::whole());
            let late = Late { by: 300 * MILLI, prompt: Prompt::First(0), on_close };
            w.relay("hub").config.odd.late = Some(late);
            let newer = hamlet.v.issues(40, w.clock.wall() - 40 * 60);
            w.hold_all("hub", &newer);
            w.drop_links("hub");
            w.run_for(25 * HOUR);
            assert_eq!(w.missing(&newer), 0, "{on_close:?}");
        });
    }
}

/// Two or three oddities that leave everything to be had.
#[derive(Debug, Default)]
struct Mixture {
    odd: Oddities,
    /// Spoiled events, and whether they lie above the issues or among them.
    spoiled: Vec<(Vec<Spoiling>, bool)>,
    /// Issues in each second: fewer than any answer has.
    together: u64,
}

impl Mixture {
    fn draw(rng: &mut Rng) -> Mixture {
        let mut mixture = Mixture { together: 1 + rng.below(4), ..Mixture::default() };
        let mut parts: Vec<u64> = (0..8).collect();
        for _ in 0..2 + rng.below(2) {
            let part = parts.remove(rng.below(parts.len() as u64) as usize);
            mixture.add(part, rng);
        }
        mixture
    }

    fn add(&mut self, part: u64, rng: &mut Rng) {
        let odd = &mut self.odd;
        match part {
            0 => self.spoiled.push((Spoiling::FORGED.to_vec(), true)),
            1 => self.spoiled.push((Spoiling::FORGED.to_vec(), false)),
            2 => self.spoiled.push((vec![Spoiling::Fraction, Spoiling::Text], rng.below(2) == 0)),
            3 => {
                let max = [15, 40, 58][rng.below(3) as usize];
                odd.max_limit = Some([MaxLimit::Advertised(max), MaxLimit::Silent(max)][rng.below(2) as usize]);
            }
            4 => odd.until_exclusive = true,
            5 => odd.since_exclusive = true,
            6 => odd.oldest_first = true,
            _ => {
                let on_close = [OnClose::Sends, OnClose::Drops][rng.below(2) as usize];
                let prompt = match rng.below(4) {
                    3 => Prompt::OneOf(3),
                    n => Prompt::First(10 * n as usize),
                };
                odd.late = Some(Late { by: 300 * MILLI, prompt, on_close });
            }
        }
    }
}

#[test]
fn mixtures_of_oddities_lose_nothing() {
    let name = "mixtures_of_oddities_lose_nothing";
    for seed in crate::seed()..crate::seed() + crate::number("SIM_SEEDS", MIXTURES) {
        let mut w = World::new(name, seed);
        let mixture = Mixture::draw(&mut w.rng);
        w.about = format!("{mixture:?}");
        eprintln!("{name}: SIM_SEED={seed}: {mixture:?}");
        let hamlet = Hamlet::build(&mut w, paged().odd(mixture.odd.clone()), together(mixture.together));
        for (spoilings, are_above) in &mixture.spoiled {
            let newest = hamlet.issues[ISSUES as usize - 1].created_at;
            let middle = hamlet.issues[ISSUES as usize / 2].created_at;
            let from = if *are_above { newest } else { middle };
            hamlet.spoil(&mut w, spoilings, MORE_THAN_A_PAGE, |n| from + 1 + n * 58 / MORE_THAN_A_PAGE);
        }
        assert_eq!(hamlet.end(&mut w), End::whole(), "SIM_SEED={seed}: {mixture:?}");
    }
}
