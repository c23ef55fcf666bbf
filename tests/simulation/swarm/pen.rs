//! The people of a world and what they write: announcements that come, change, unlist, are deleted and come back, and
//! events that belong to them or do not.

use super::options::{aside, one_of};
use crate::events::{Author, EventRef, OWN_RELAY};
use crate::rng::Rng;
use crate::world::relay_url;

/// One repo of the world.
pub struct Repo {
    pub owner: usize,
    pub d: String,
    /// Its newest announcement.
    pub announced: Option<EventRef>,
    /// Relays that it lists, by number.
    pub relays: Vec<usize>,
    /// The next announcement must not be older.
    not_before: u64,
}

pub struct Pen {
    pub authors: Vec<Author>,
    pub repos: Vec<Repo>,
    pub roots: Vec<EventRef>,
    pub others: Vec<EventRef>,
    made: u64,
}

impl Pen {
    pub fn new(authors: u64, repos: usize, rng: &mut Rng) -> Pen {
        let names = ["plain", "with:colon", "a:b:", "ünïcode", "UPPER"];
        let repo = |n: usize, rng: &mut Rng| Repo {
            owner: rng.below(authors) as usize,
            // Two repos share each name, so that their owners may speak for each other.
            d: format!("{}{}", names[n / 2 % names.len()], n / 2),
            announced: None,
            relays: Vec::new(),
            not_before: 0,
        };
        Pen {
            authors: (0..authors).map(Author::new).collect(),
            repos: (0..repos).map(|n| repo(n, rng)).collect(),
            roots: Vec::new(),
            others: Vec::new(),
            made: 0,
        }
    }

    pub fn address(&self, repo: usize) -> String {
        let repo = &self.repos[repo];
        self.authors[repo.owner].repo(&repo.d)
    }

    pub fn author_of(&self, event: &EventRef) -> &Author {
        self.authors.iter().find(|a| a.hex == event.author).expect("signed by one of them")
    }

    fn text(&mut self) -> String {
        self.made += 1;
        format!("text {}", self.made)
    }

    /// A time that an event may bear: mostly now, sometimes long ago or a little ahead.
    pub fn when(&self, rng: &mut Rng, wall: u64) -> u64 {
        match rng.below(10) {
            0 => wall.saturating_sub(rng.below(400 * 86_400)),
            1 => wall - rng.below(3_600),
            2 => wall - rng.below(86_400),
            3 => wall + rng.below(1_800),
            4 => rng.below(wall),
            _ => wall,
        }
    }

    /// Announces a repo anew: on other relays, in other forms, or elsewhere.
    pub fn announce(&mut self, rng: &mut Rng, relays: usize, wall: u64) -> usize {
        let mut aside = aside(rng);
        let n = rng.below(self.repos.len() as u64) as usize;
        let at = (wall - rng.below(900)).max(self.repos[n].not_before);
        let listed: Vec<usize> = (0..1 + rng.below(4)).map(|_| rng.below(relays as u64) as usize).collect();
        let mut urls: Vec<String> = vec![OWN_RELAY.to_owned()];
        urls.extend(listed.iter().map(|r| form(rng, &relay_url(&format!("r{r}")))));
        if rng.below(6) == 0 {
            let unreachable = ["wss://nowhere.example", "ws://127.0.0.1:7334", "wss://grasp.example.evil.example"];
            urls.push(one_of(rng, &unreachable).to_owned());
            urls.push("not a relay".to_owned());
        }
        let others: Vec<String> = self.authors.iter().map(|a| a.hex.clone()).collect();
        let mut maintainers: Vec<&str> =
            (0..rng.below(3)).map(|_| &*others[rng.below(others.len() as u64) as usize]).collect();
        if aside.below(3) == 0 {
            let of_name = self.repos.iter().filter(|repo| repo.d == self.repos[n].d);
            maintainers.extend(of_name.map(|repo| &*others[repo.owner]));
        }
        let listing = listing(&mut aside, &others[self.repos[n].owner], &maintainers);
        let repo = &mut self.repos[n];
        let author = &self.authors[repo.owner];
        let tag: Vec<&str> = std::iter::once("relays").chain(urls.iter().map(|u| &**u)).collect();
        let (clone, listed) = match rng.below(8) {
            0 => (format!("https://other.example/{}/{}.git", author.npub, repo.d), listed),
            _ => (author.clone_url(&repo.d), listed),
        };
        let listing: Vec<&[&str]> = listing.iter().map(|tag| &tag[..]).collect();
        let event = author.announcement_with(&repo.d, &clone, &tag, &listing, at);
        // A tie is as good as a later one.
        repo.not_before = at + rng.below(2);
        (repo.announced, repo.relays) = (Some(event), listed);
        n
    }

    /// Sometimes one of whom a repo's announcement lists says on another service whether he accepts. He owns no repo of
    /// that name: it would take that one's place.
    pub fn acceptance(&mut self, rng: &Rng, n: usize, wall: u64) -> Option<EventRef> {
        let mut aside = aside(rng);
        let (repo, owner) = (&self.repos[n], &self.authors[self.repos[n].owner]);
        let tags = &repo.announced.as_ref()?.tags;
        let is_listed = |author: &Author| tags.iter().any(|tag| tag[0] != "p" && tag[1..].contains(&author.hex));
        let owns = |author: &Author| {
            self.repos.iter().any(|other| other.d == repo.d && self.authors[other.owner].hex == author.hex)
        };
        let listed: Vec<&Author> = self.authors.iter().filter(|author| is_listed(author) && !owns(author)).collect();
        if listed.is_empty() || aside.below(2) == 0 {
            return None;
        }
        let author = listed[aside.below(listed.len() as u64) as usize];
        let other = &self.authors[aside.below(self.authors.len() as u64) as usize];
        let both: [&str; 2] = [&owner.hex, &other.hex];
        let lists = one_of(&mut aside, &[&both[..1], &both, &both[1..]]);
        let listing = listing(&mut aside, &author.hex, lists);
        let listing: Vec<&[&str]> = listing.iter().map(|tag| &tag[..]).collect();
        let relays = ["relays", "wss://other.example"];
        Some(author.announcement_with(&repo.d, "https://other.example/x.git", &relays, &listing, wall))
    }

    /// Deletes a repo; what comes later may bring it back.
    pub fn delete_repo(&mut self, rng: &mut Rng, wall: u64) -> Option<(EventRef, Vec<usize>)> {
        let n = rng.below(self.repos.len() as u64) as usize;
        let address = self.address(n);
        let repo = &mut self.repos[n];
        let event = repo.announced.take()?;
        let at = wall.max(event.created_at);
        repo.not_before = at + 1;
        Some((self.authors[repo.owner].deletion(&[&event], &[&address], at), repo.relays.clone()))
    }

    /// Deletes an event.
    pub fn delete(&mut self, rng: &mut Rng, wall: u64) -> Option<EventRef> {
        let from = if rng.below(2) == 0 { &self.roots } else { &self.others };
        let event = pick(rng, from)?;
        Some(self.author_of(&event).deletion(&[&event], &[], wall))
    }

    /// A root event of some repos.
    pub fn root(&mut self, rng: &mut Rng, at: u64) -> EventRef {
        let tagged = one_of(rng, &[1, 1, 1, 2, 3, 17]);
        let mut repos: Vec<String> =
            (0..tagged).map(|_| self.address(rng.below(self.repos.len() as u64) as usize)).collect();
        repos.dedup();
        let tags: Vec<&str> = repos.iter().map(|r| &**r).collect();
        let (kind, text) = (one_of(rng, &[1617, 1618, 1619, 1621]), self.text());
        let author = rng.below(self.authors.len() as u64) as usize;
        let event = self.authors[author].root(kind, &tags, at, &text);
        self.roots.push(event.clone());
        event
    }

    /// Something that refers to a root event or a repo.
    pub fn comment(&mut self, rng: &mut Rng, at: u64) -> EventRef {
        let (text, author) = (self.text(), rng.below(self.authors.len() as u64) as usize);
        let repo = self.address(rng.below(self.repos.len() as u64) as usize);
        let author = &self.authors[author];
        let event = match (pick(rng, &self.roots), rng.below(6)) {
            (Some(root), 0..=2) => author.comment(&root, at, &text),
            (Some(root), 3) => author.sign(1630, at, &[&["e", &root.id], &["a", &repo]], &text),
            (Some(root), 4) => author.sign(1, at, &[&["q", &root.id]], &text),
            _ => author.sign(1111, at, &[&["A", &repo]], &text),
        };
        self.others.push(event.clone());
        event
    }

    pub fn state(&mut self, rng: &mut Rng, wall: u64) -> EventRef {
        let n = rng.below(self.repos.len() as u64) as usize;
        let author =
            if rng.below(3) == 0 { rng.below(self.authors.len() as u64) as usize } else { self.repos[n].owner };
        self.authors[author].state(&self.repos[n].d, wall)
    }

    /// What must not be stored.
    pub fn junk(&mut self, rng: &mut Rng, wall: u64) -> EventRef {
        let (text, repo) = (self.text(), self.address(rng.below(self.repos.len() as u64) as usize));
        let author = &self.authors[rng.below(self.authors.len() as u64) as usize];
        let a: &[&str] = &["a", &repo];
        match rng.below(6) {
            0 => author.sign(1621, wall, &[a, &["-"]], &text),
            1 => author.sign(1621, wall, &[a, &["expiration", &(wall - 1).to_string()]], &text),
            2 => author.sign(1621, wall + 86_400, &[a], &text),
            3 => author.sign(20_001, wall, &[a], &text),
            4 => author.sign(1621, wall, &[a], &"x".repeat(200_000)),
            _ => author.sign(1621, wall, &[&["a", &author.repo("unknown")]], &text),
        }
    }

    /// An issue that will expire.
    pub fn expiring(&mut self, rng: &mut Rng, wall: u64) -> EventRef {
        let (text, repo) = (self.text(), self.address(rng.below(self.repos.len() as u64) as usize));
        let author = &self.authors[rng.below(self.authors.len() as u64) as usize];
        let until = (wall + 1 + rng.below(7_200)).to_string();
        author.sign(1621, wall, &[&["a", &repo], &["expiration", &until]], &text)
    }
}

/// The tags with which an announcement lists these: `maintainers`, or roles of all kinds.
fn listing<'a>(aside: &mut Rng, author: &'a str, maintainers: &[&'a str]) -> Vec<Vec<&'a str>> {
    if aside.below(3) > 0 {
        let tag: Vec<&str> = std::iter::once("maintainers").chain(maintainers.iter().copied()).collect();
        return if maintainers.is_empty() { Vec::new() } else { vec![tag] };
    }
    let role = |aside: &mut Rng, key: &'a str| {
        let boundaries: &[&str] = one_of(
            aside,
            &[&[][..], &[], &["100"], &["100", "200"], &["100", "200", "300"], &["100", "defer"], &["x"]],
        );
        [&[one_of(aside, &["M", "m", "m", "o"]), key], boundaries].concat()
    };
    let mut tags: Vec<Vec<&str>> = maintainers.iter().map(|key| role(aside, key)).collect();
    if aside.below(3) == 0 {
        tags.push(role(aside, author));
    }
    tags
}

pub fn pick(rng: &mut Rng, from: &[EventRef]) -> Option<EventRef> {
    if from.is_empty() { None } else { Some(from[rng.below(from.len() as u64) as usize].clone()) }
}

/// One of the ways in which people write a relay's URL.
fn form(rng: &mut Rng, url: &str) -> String {
    match rng.below(8) {
        0 => format!("{url}/"),
        1 => format!("{url}:443"),
        2 => url.replace("wss://r", "WSS://R"),
        _ => url.to_owned(),
    }
}
