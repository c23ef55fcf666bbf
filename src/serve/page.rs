//! The page at the own relay's address, for a person with a browser: what this service is, how complete it is, what is new,
//! and how to use it. One document without scripts and without anything from elsewhere.
//!
//! Names and descriptions of repos are strangers' words: all text is escaped, wherever it stands.

use std::fmt::{self, Write as _};

use nostr::event::{Event, Kind};
use nostr::nips::nip01::Coordinate;
use nostr::nips::nip19::{Nip19Coordinate, ToBech32};

use super::info::description;
use crate::limits::{PAGE_IDENTIFIER_BYTES_MAX, PAGE_TEXT_CHARS_MAX};
use crate::protocol::repo::RepoAddr;
use crate::settings::Settings;

/// What the page tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Repos that are followed.
    pub repos: usize,
    /// Events that were ever stored.
    pub events: u64,
    /// Relays that are followed.
    pub relays: usize,
    /// Of these, linked now.
    pub connected: usize,
    /// Of those, the ones of which everything is held.
    pub complete: usize,
    /// The repos announced last, the newest first.
    pub newest: Vec<Listed>,
}

/// A repo on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    addr: RepoAddr,
    name: String,
    description: String,
}

impl Listed {
    /// Of the repo that an event announces, as its `name` and `description` tags have it. `None` if its address is too long.
    pub fn of(event: &Event, addr: RepoAddr) -> Option<Listed> {
        if addr.identifier.len() > PAGE_IDENTIFIER_BYTES_MAX {
            return None;
        }
        let tag = |name: &str| {
            let tag = event.tags.iter().find(|tag| tag.kind() == name);
            cut(tag.and_then(|tag| tag.content()).unwrap_or_default())
        };
        Some(Listed { name: tag("name"), description: tag("description"), addr })
    }
}

/// The first [`PAGE_TEXT_CHARS_MAX`] characters; the last of them says so if there are more.
fn cut(text: &str) -> String {
    match text.char_indices().nth(PAGE_TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(PAGE_TEXT_CHARS_MAX - 1).chain(['…']).collect(),
    }
}

/// The page, HTML.
pub fn page(settings: &Settings, facts: &Facts) -> String {
    let title = settings.profile.name.clone().unwrap_or_else(|| settings.service.to_string());
    let mut html = String::with_capacity(8 << 10);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
        Text(&description(settings)),
        title = Text(&title),
    );
    write_numbers(&mut html, facts);
    write_newest(&mut html, settings, facts);
    write_use(&mut html, settings);
    write_foot(&mut html, settings);
    html += "</main>\n</body>\n</html>\n";
    html
}

fn write_numbers(html: &mut String, facts: &Facts) {
    html.push_str("<ul class=\"numbers\">\n");
    for (number, what) in
        [(facts.repos as u64, "repositories"), (facts.events, "events so far"), (facts.relays as u64, "relays")]
    {
        let _ = writeln!(html, "<li><strong>{}</strong> {what}</li>", Grouped(number));
    }
    html.push_str("</ul>\n");
    let _ = writeln!(html, "<p>{}</p>", completeness(facts));
}

/// How complete what is held is, in one sentence.
fn completeness(facts: &Facts) -> String {
    let Facts { relays, connected, complete, .. } = *facts;
    let away = relays - connected;
    let mut said = match (relays, complete) {
        (0, _) => return "No relay is followed yet.".to_owned(),
        _ if complete == relays => return "Everything that these relays have of them is here.".to_owned(),
        _ => format!("Of {relays} relays, everything that {complete} have is here"),
    };
    let behind = connected - complete;
    if behind > 0 {
        let _ = write!(said, "; {behind} are still being asked, or do not give everything");
    }
    if away > 0 {
        let _ = write!(said, "; {away} cannot be reached now");
    }
    said + "."
}

fn write_newest(html: &mut String, settings: &Settings, facts: &Facts) {
    if facts.newest.is_empty() {
        return;
    }
    html.push_str("<h2>Newest repositories</h2>\n<ul class=\"repos\">\n");
    for Listed { addr, name, description } in &facts.newest {
        let name = if name.trim().is_empty() { &addr.identifier } else { name };
        let address = naddr(addr, settings);
        let _ = write!(
            html,
            "<li><a href=\"https://gitworkshop.dev/{address}\">{}</a> <a class=\"app\" href=\"nostr:{address}\">open in an app</a>",
            Text(name)
        );
        if !description.trim().is_empty() {
            let _ = write!(html, "<br><span>{}</span>", Text(description));
        }
        html.push_str("</li>\n");
    }
    html.push_str("</ul>\n");
}

fn write_use(html: &mut String, settings: &Settings) {
    let service = settings.service.to_string();
    let _ = write!(
        html,
        "<h2>Use it</h2>\n<p>As a Nostr relay: <code>{relay}</code></p>\n\
         <p>To put a repository here, in its directory:</p>\n<pre>ngit init --grasp-server {service}</pre>\n\
         <p>Its announcement then lists <code>https://{service}/&lt;npub&gt;/&lt;identifier&gt;.git</code> under \
         <code>clone</code> and <code>{relay}</code> under <code>relays</code>.</p>\n",
        relay = Text(&settings.service.relay_url()),
        service = Text(&service),
    );
}

fn write_foot(html: &mut String, settings: &Settings) {
    let profile = &settings.profile;
    let links = [
        ("Terms of service", &profile.terms_of_service),
        ("Privacy policy", &profile.privacy_policy),
        ("Posting policy", &profile.posting_policy),
    ];
    html.push_str("<footer>");
    if let Some(contact) = &profile.contact {
        let _ = write!(html, "<p>Contact: {}</p>", Text(contact));
    }
    for (what, link) in links {
        if let Some(link) = link {
            let _ = write!(html, "<p><a href=\"{}\">{what}</a></p>", Text(link));
        }
    }
    let _ = writeln!(html, "<p>Kept complete by grasp-sync {}.</p></footer>", env!("CARGO_PKG_VERSION"));
}

/// The address of a repo with this relay as the hint (NIP-19).
fn naddr(addr: &RepoAddr, settings: &Settings) -> String {
    let coordinate = Coordinate::new(Kind::GitRepoAnnouncement, addr.author).identifier(addr.identifier.clone());
    let hint = nostr::types::RelayUrl::parse(&settings.service.relay_url()).ok();
    Nip19Coordinate::new(coordinate, hint).to_bech32().unwrap_or_default()
}

/// Text within a document or an attribute in double quotes: what would be markup is not, and control characters are gone.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // What turns the direction of text around would turn ours around, too.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A number with its digits in groups of three.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (n, digit) in digits.chars().enumerate() {
            if n > 0 && (digits.len() - n).is_multiple_of(3) {
                f.write_str(",")?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2330;--dim:#5b6475;--back:#fbfaf7;--line:#dcd9d0;--link:#7a3e9d}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e4de;--dim:#9aa2b1;--back:#16181d;--line:#333842;--link:#cf9df0}}\
*{box-sizing:border-box}\
body{margin:0;background:var(--back);color:var(--ink);font:1rem/1.55 system-ui,sans-serif}\
main{max-width:44rem;margin:0 auto;padding:2.5rem 1.25rem;overflow-wrap:anywhere}\
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2.25rem 0 .5rem}\
.lead{font-size:1.1rem;color:var(--dim);margin-top:0}\
a{color:var(--link)}\
.numbers{list-style:none;display:flex;flex-wrap:wrap;gap:.5rem 2.25rem;padding:0;margin:1.5rem 0 1rem}\
.numbers strong{font-size:1.5rem;display:block;font-variant-numeric:tabular-nums}\
.repos{list-style:none;padding:0;margin:0}.repos li{padding:.6rem 0;border-top:1px solid var(--line)}\
.repos span{color:var(--dim)}.app{font-size:.85rem;margin-left:.4rem}\
code,pre{font:.9rem ui-monospace,monospace}pre{padding:.75rem 1rem;border:1px solid var(--line);border-radius:.4rem;overflow-x:auto}\
footer{margin-top:2.5rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--dim);font-size:.9rem}footer p{margin:.2rem 0}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PAGE_BYTES_MAX, PAGE_REPOS_MAX};
    use crate::protocol::relay_url::Service;
    use crate::store::testing::event;
    use crate::sync::testing::addr;

    fn settings() -> Settings {
        Settings::of(Service::parse("git.example.org").unwrap())
    }

    fn listed(name: &str, description: &str) -> Listed {
        let event = event(1, 30_617, 5, &[&["d", "repo"], &["name", name], &["description", description]], "");
        Listed::of(&event, addr(1, "repo")).unwrap()
    }

    #[test]
    fn hostile_names_are_text() {
        let newest = vec![listed("<script>alert(1)</script>", "\" onload='x' & \u{202e}evil\u{0}")];
        let html = page(&settings(), &Facts { newest, ..Facts::default() });
        assert!(!html.contains("<script") && !html.contains("\u{202e}") && !html.contains('\u{0}'));
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(html.contains("&quot; onload=&#39;x&#39; &amp; evil "), "{html}");
        let nameless = page(&settings(), &Facts { newest: vec![listed(" ", "")], ..Facts::default() });
        assert!(nameless.contains(">repo</a>"), "{nameless}");
    }

    #[test]
    fn the_largest_page_stays_small() {
        let worst = "\"".repeat(10 * PAGE_TEXT_CHARS_MAX);
        let longest = Listed { addr: addr(1, &"a".repeat(PAGE_IDENTIFIER_BYTES_MAX)), ..listed(&worst, &worst) };
        let newest = vec![longest; PAGE_REPOS_MAX];
        let html = page(&settings(), &Facts { newest, ..Facts::default() });
        assert!(html.len() <= PAGE_BYTES_MAX, "{}", html.len());
    }

    #[test]
    fn it_needs_nothing_from_elsewhere_and_says_how_to_push() {
        let html = page(&settings(), &Facts { newest: vec![listed("a", "b")], ..Facts::default() });
        for absent in ["<script", "<img", "<link", "url(", "@import"] {
            assert!(!html.contains(absent), "{absent}");
        }
        assert!(html.contains("ngit init --grasp-server git.example.org"));
        assert!(html.contains("wss://git.example.org"));
        assert!(html.contains("href=\"https://gitworkshop.dev/naddr1"), "{html}");
    }

    #[test]
    fn completeness_is_said_honestly() {
        let facts = |relays, connected, complete| Facts { relays, connected, complete, ..Facts::default() };
        assert_eq!(completeness(&facts(0, 0, 0)), "No relay is followed yet.");
        assert_eq!(completeness(&facts(3, 3, 3)), "Everything that these relays have of them is here.");
        assert_eq!(
            completeness(&facts(9, 7, 4)),
            "Of 9 relays, everything that 4 have is here; 3 are still being asked, or do not give everything; \
             2 cannot be reached now."
        );
    }

    #[test]
    fn what_is_cut_says_so() {
        let whole = "é".repeat(PAGE_TEXT_CHARS_MAX);
        assert_eq!(cut(&whole), whole);
        let cut = cut(&(whole + "é"));
        assert!(cut.ends_with("é…") && cut.chars().count() == PAGE_TEXT_CHARS_MAX);
    }

    #[test]
    fn numbers_are_grouped() {
        let grouped: Vec<String> = [0, 999, 1_000, 1_234_567].map(|n| Grouped(n).to_string()).into();
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
    }
}
