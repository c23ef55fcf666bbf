//! Who comes in: accepted, answered over HTTP, or made a client link.

use mio::Interest;
use tungstenite::protocol::Role;

use crate::contract::{Input, LinkId};
use crate::io::connections::{Connection, Connections};
use crate::io::event_loop::{Core, EventLoop, RunError};
use crate::io::http::{Door, Method, Request, Response, Route, route};
use crate::io::inbound::{Inbound, Progress};
use crate::io::link::Link;
use crate::io::transport::Transport;
use crate::limits::{ACCEPTS_PER_TURN, HEALTH_COMMIT_MAX, HTTP_HEAD_TIMEOUT, HTTP_PENDING_MAX, HTTP_RESPONSE_TIMEOUT};
use crate::time::Now;

impl EventLoop {
    /// Takes in who waits at the listeners.
    pub(super) fn accept(&mut self, now: Now) {
        for listener in &mut self.listeners {
            for _ in 0..ACCEPTS_PER_TURN {
                if !listener.may_accept(now.mono) {
                    break;
                }
                let Some(mut socket) = listener.accept(now.mono) else { break };
                if listener.pending >= HTTP_PENDING_MAX {
                    self.counters.connections_refused += 1;
                    continue;
                }
                // Answers are whole; nothing is won by holding back their last packet.
                let _ = socket.set_nodelay(true);
                let token = Connections::token(self.connections.next_key());
                let interest = Interest::READABLE | Interest::WRITABLE;
                if let Err(e) = self.poll.registry().register(&mut socket, token, interest) {
                    log::warn!("cannot watch a connection: {e}");
                    continue;
                }
                listener.pending += 1;
                let key = self.connections.insert(Connection::Inbound(Inbound::new(socket, listener.door())));
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
                Progress::Asked(request) => {
                    let door = inbound.door();
                    self.answer(now, key, door, &request, core);
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

    fn answer(&mut self, now: Now, key: usize, door: Door, request: &Request, core: &mut impl Core) {
        let Some(Connection::Inbound(inbound)) = self.connections.get_mut(key) else { return };
        let response = match route(door, request) {
            Route::Upgrade(accept) if self.clients < self.options.clients_max => {
                inbound.upgrade(&accept);
                return;
            }
            Route::Upgrade(_) => {
                self.counters.clients_refused += 1;
                Response::text(503, "As many clients as allowed are connected.\n")
            }
            Route::RelayInfo => Response::relay_info(core.relay_info_json()),
            Route::Metrics => Response::metrics(self.counters.add_to(core.metrics_text())),
            Route::Status => Response::status_json(core.status_json(now)),
            Route::Health if self.last_commit_took > HEALTH_COMMIT_MAX => {
                Response::text(503, "The last commit of the store took too long.\n")
            }
            Route::Health => Response::text(200, "ok\n"),
            Route::Answer(response) => response,
        };
        log::debug!("{door:?} {:?} {:?}: {}", request.method, request.path, response.status());
        self.counters.http_answers += 1;
        inbound.answer(response, request.method == Method::Head);
    }

    fn open_client(&mut self, now: Now, key: usize, tail: Vec<u8>, core: &mut impl Core) -> Result<(), RunError> {
        // Several may have been let through before the first of them got here.
        if self.clients >= self.options.clients_max {
            self.counters.clients_refused += 1;
            self.drop_inbound(key);
            return Ok(());
        }
        let Some(Connection::Inbound(inbound)) = self.connections.take(key) else { return Ok(()) };
        self.forget_pending(inbound.door());
        let id = LinkId::Client(self.next_client);
        self.next_client += 1;
        self.clients += 1;
        let link = Link::new(Transport::plain(inbound.into_socket()), Role::Server, tail);
        self.connections.put(key, Connection::Open { id, link: Box::new(link), sent: false });
        self.connections.set_deadline(key, None);
        self.connections.make_ready(key);
        core.handle(now, Input::Accepted { link: id })?;
        Ok(())
    }

    /// Lets a connection that came in go.
    pub(super) fn drop_inbound(&mut self, key: usize) {
        if let Some(Connection::Inbound(inbound)) = self.connections.remove(key) {
            self.forget_pending(inbound.door());
        }
    }

    fn forget_pending(&mut self, door: Door) {
        for listener in self.listeners.iter_mut().filter(|l| l.door() == door) {
            listener.pending -= 1;
        }
    }
}
