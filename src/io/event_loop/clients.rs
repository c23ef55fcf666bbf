//! Who comes in: accepted, answered over HTTP, or made a client link.

use std::net::IpAddr;

use mio::Interest;
use tungstenite::protocol::Role;

use crate::contract::{Input, LinkId};
use crate::fault::{Party, isolate};
use crate::io::connections::{Connection, Connections, Open};
use crate::io::event_loop::{Core, EventLoop, RunError};
use crate::io::http::{Door, HttpError, Method, Request, Response, Route, route};
use crate::io::inbound::{Inbound, Progress};
use crate::io::link::Link;
use crate::io::proxies::BadForwarded;
use crate::io::transport::Transport;
use crate::limits::{ACCEPTS_PER_TURN, HEALTH_COMMIT_MAX, HTTP_HEAD_TIMEOUT, HTTP_RESPONSE_TIMEOUT};
use crate::time::Now;

/// A document that a connection has asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document {
    key: usize,
    is_status: bool,
    head_only: bool,
}

impl EventLoop {
    /// Takes in who waits at the listeners.
    pub(super) fn accept(&mut self, now: Now) {
        for listener in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let listener = &mut self.listeners[listener];
                if !listener.may_accept(now.mono) {
                    break;
                }
                let door = listener.door();
                let Some((mut socket, address)) = listener.accept(now.mono) else { break };
                let account = self.proxies.newcomer(address.ip());
                if !self.places.may_connect(now.mono, account) {
                    self.counters.connections_refused += 1;
                    continue;
                }
                if let Some(oldest) = self.places.in_the_way(door, account) {
                    self.counters.connections_refused += 1;
                    self.drop_inbound(oldest);
                }
                // Answers are whole; nothing is won by holding back their last packet.
                let _ = socket.set_nodelay(true);
                let token = Connections::token(self.connections.next_key());
                let interest = Interest::READABLE | Interest::WRITABLE;
                if let Err(e) = self.poll.registry().register(&mut socket, token, interest) {
                    log::warn!("cannot watch a connection: {e}");
                    continue;
                }
                let inbound = match self.proxies.trusts(address.ip()) {
                    true => Inbound::of_proxy(socket, door, address.ip()),
                    false => Inbound::new(socket, door, address.ip()),
                };
                let key = self.connections.insert(Connection::Inbound(inbound));
                self.places.add_pending(key, door, account);
                self.connections.set_deadline(key, Some(now.mono + HTTP_HEAD_TIMEOUT));
            }
        }
    }

    /// Goes on with a connection that came in.
    pub(super) fn drive_inbound(&mut self, now: Now, key: usize, core: &mut impl Core) -> Result<(), RunError> {
        loop {
            let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) else { return Ok(()) };
            match inbound.advance() {
                Progress::Pending => return Ok(()),
                Progress::Introduced => {
                    let client = inbound.peer();
                    if !self.reassign(now, key, client) {
                        self.drop_inbound(key);
                        return Ok(());
                    }
                }
                Progress::Refused(error) => {
                    self.counters.http_answers += 1;
                    self.counters.proxy_headers_refused += u64::from(error == HttpError::Proxy);
                }
                Progress::Asked(request) => {
                    let door = inbound.door();
                    let client = self.proxies.client(inbound.peer(), &request.forwarded_for);
                    match client.map(|client| self.reassign(now, key, client)) {
                        Ok(true) => self.answer(now, key, door, &request, core),
                        Ok(false) => self.refuse(key, Response::text(429, "This address connects too often.\n")),
                        Err(BadForwarded) => {
                            self.counters.proxy_headers_refused += 1;
                            self.refuse(key, HttpError::Proxy.response());
                        }
                    }
                    self.connections.set_deadline(key, Some(now.mono + HTTP_RESPONSE_TIMEOUT));
                }
                Progress::Upgraded(tail) => return self.open_client(now, key, tail, core),
                Progress::Done => {
                    self.drop_inbound(key);
                    return Ok(());
                }
            }
        }
    }

    /// A connection turns out to be somebody's. False if that one connects too often.
    fn reassign(&mut self, now: Now, key: usize, client: IpAddr) -> bool {
        let account = self.proxies.account(client);
        if self.places.pending(key) == Some(account) {
            return true;
        }
        if !self.places.may_connect(now.mono, account) {
            self.counters.connections_refused += 1;
            return false;
        }
        if let Some(oldest) = self.places.reassign(key, account) {
            self.counters.connections_refused += 1;
            self.drop_inbound(oldest);
        }
        true
    }

    fn refuse(&mut self, key: usize, response: Response) {
        self.counters.http_answers += 1;
        if let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) {
            inbound.answer(response, false);
        }
    }

    fn answer(&mut self, now: Now, key: usize, door: Door, request: &Request, core: &mut impl Core) {
        // A page in a browser on this machine may have a name of its own lead here (DNS rebinding), but it cannot ask for us
        // by address.
        let is_misdirected = door == Door::Admin && self.admin_addr().ip().is_loopback() && !request.host_is_loopback;
        let route = match is_misdirected {
            true => Route::Answer(Response::text(421, "Ask for this by address, or as localhost.\n")),
            false => route(door, request),
        };
        let head_only = request.method == Method::Head;
        log::debug!("{door:?} {:?} {:?}", request.method, request.path);
        if matches!(route, Route::Metrics | Route::Status) {
            self.documents.push_back(Document { key, is_status: matches!(route, Route::Status), head_only });
            if let Some(oldest) = self.places.add_document(key) {
                self.counters.connections_refused += 1;
                self.drop_inbound(oldest);
            }
            return;
        }
        if let Route::Upgrade(accept) = &route
            && let Some(own) = self.connections.dial_that_awaits(accept)
        {
            self.refuse_own_dial(own);
            self.refuse(key, Response::text(508, "This is the service that asks.\n"));
            return;
        }
        let has_room = self.places.pending(key).is_some_and(|account| self.places.has_room(account));
        let response = match route {
            Route::Upgrade(accept) if has_room => {
                if let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) {
                    inbound.upgrade(&accept);
                }
                return;
            }
            Route::Upgrade(_) => {
                self.counters.clients_refused += 1;
                Response::text(503, "As many clients as allowed are connected.\n")
            }
            Route::Page => self.page(|_| Response::page(core.page_html(now))),
            Route::Names(name) => self.page(|_| Response::names(core.names_json(name.as_deref()))),
            Route::RelayInfo => self.page(|_| Response::relay_info(core.relay_info_json())),
            Route::Metrics | Route::Status => unreachable!("documents wait for their turn"),
            Route::Health if self.last_commit_took > HEALTH_COMMIT_MAX => {
                Response::text(503, "The last commit of the store took too long.\n")
            }
            Route::Health => match core.shortage() {
                Some(why) => Response::text(503, &format!("Nothing can be stored: {why}.\n")),
                None => Response::text(200, "ok\n"),
            },
            Route::Answer(response) => response,
        };
        log::debug!("answered with {}", response.status());
        self.counters.http_answers += 1;
        if let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) {
            inbound.answer(response, head_only);
        }
    }

    /// A page that is made of what everybody shares, and changes nothing of it: a panic is answered with 500.
    fn page(&mut self, make: impl FnOnce(&EventLoop) -> Response) -> Response {
        isolate(Party::Page, || make(self)).unwrap_or_else(|fault| {
            log::error!("a page: {fault}");
            self.counters.page_faults += 1;
            Response::text(500, "This page could not be made, by a bug of ours; the log has more.\n")
        })
    }

    /// Answers the request for a document that has waited longest. Each takes long where there are many relays.
    pub(super) fn answer_document(&mut self, now: Now, core: &mut impl Core) -> Result<(), RunError> {
        let Some(Document { key, is_status, head_only }) = self.documents.pop_front() else { return Ok(()) };
        let response = match is_status {
            true => self.page(|_| Response::status_json(core.status_json(now))),
            false => {
                self.page(|shell| Response::metrics(shell.counters.add_to(core.metrics_text(), shell.pool.used())))
            }
        };
        let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) else { return Ok(()) };
        self.counters.http_answers += 1;
        inbound.answer(response, head_only);
        self.drive_inbound(now, key, core)
    }

    fn open_client(&mut self, now: Now, key: usize, tail: Vec<u8>, core: &mut impl Core) -> Result<(), RunError> {
        // Several may have been let through before the first of them got here.
        let Some(account) = self.places.pending(key).filter(|account| self.places.has_room(*account)) else {
            self.counters.clients_refused += 1;
            self.drop_inbound(key);
            return Ok(());
        };
        let Some(Connection::Inbound(inbound)) = self.connections.take(key) else { return Ok(()) };
        self.places.remove_pending(key);
        self.places.add_client(account);
        let id = LinkId::Client(self.next_client);
        self.next_client += 1;
        let link = Box::new(Link::new(Transport::plain(inbound.into_socket()), Role::Server, tail));
        self.connections.put(key, Connection::Open(Open::new(id, link, account)));
        self.connections.set_deadline(key, None);
        self.connections.make_ready(key);
        core.handle(now, Input::Accepted { link: id, account })?;
        Ok(())
    }

    /// Lets a connection that came in go.
    pub(super) fn drop_inbound(&mut self, key: usize) {
        self.connections.remove(key);
        self.places.remove_pending(key);
        self.documents.retain(|document| document.key != key);
    }
}
