//! The life of the process: how it starts, and the ways in which it ends. Between two lives a scenario may change
//! `settings`.

use super::World;
use crate::checks::rules::Rules;
use crate::disk::{DiskFaults, Lost};
use crate::link::{Far, Link};
use grasp_sync::engine::Input;
use grasp_sync::store::StoreError;

impl World {
    /// Starts the process. It may end at once if the disk fails; see [`World::is_running`].
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "already running");
        self.say("the process starts");
        self.started = self.clock.now();
        self.asleep = 0;
        self.checks.restart(self.awake(), self.clock.wall(), Rules::of(&self.settings));
        let now = self.now();
        self.idle_turns = 0;
        match (self.boot)(self.disk.clone(), self.settings.clone(), now) {
            Ok(process) => {
                self.process = Some(process);
                // Opening the store syncs what the last process wrote and could not sync.
                let verdict = self.refresh_durable();
                self.demand(verdict);
                self.listen();
                self.feed(Input::Space(self.disk.space()));
                self.drain();
                self.finish_turn();
            }
            Err(error) => self.process_ends(error),
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process is killed and the machine loses power: only what was synced remains.
    pub fn kill(&mut self) {
        self.kill_with(Lost::All);
    }

    /// The process, if it runs, is killed. With anything but [`Lost::Nothing`] the machine has lost power.
    pub fn kill_with(&mut self, lost: Lost) {
        self.say(&format!("the process is killed; lost of what was not synced: {lost:?}"));
        self.disk = self.disk.after(lost);
        self.process = None;
        self.forget_links();
    }

    /// The process stops as on SIGTERM.
    pub fn stop(&mut self) {
        self.say("the process stops");
        self.feed(Input::Stop);
        let now = self.now();
        let Some(mut process) = self.process.take() else { return };
        let done = process.commit(now);
        self.listen();
        match done.and_then(|()| process.close()) {
            Ok(()) => {
                self.disk = self.disk.after(Lost::Nothing);
                self.forget_links();
            }
            Err(error) => self.process_ends(error),
        }
    }

    /// The process ends by an error of its store, as the program does. The machine goes on, and so does what redb still
    /// does to the disk when it is dropped; a scenario that wants the power to fail as well says so with
    /// [`World::kill_with`].
    pub(super) fn process_ends(&mut self, error: StoreError) {
        if !self.disk_fails {
            self.fail(&format!("the disk has no faults, and the process ends: {error}"));
        }
        self.say(&format!("the process ends: {error}"));
        self.endings.push((self.clock.now(), error));
        self.process = None;
        self.disk = self.disk.after(Lost::Nothing);
        self.forget_links();
    }

    /// From now on this is wrong with the disk, through all restarts; the default heals it.
    pub fn disk_faults(&mut self, faults: DiskFaults) {
        self.say(&format!("the disk: {faults:?}"));
        self.disk_fails = true;
        self.disk.set_faults(faults);
    }

    /// Bytes of the disk that are in use.
    pub fn disk_used(&self) -> u64 {
        self.disk.used()
    }

    fn forget_links(&mut self) {
        for serial in std::mem::take(&mut self.serials).into_values() {
            self.ids.remove(&serial);
            if let Some(Link { far: Far::Relay(n), .. }) = self.links.get(&serial) {
                self.relays[*n].close(serial);
            }
            self.links.remove(&serial);
            self.checks.links.remove(&serial);
        }
        self.seen_syncs = u64::MAX;
        let verdict = self.refresh_durable().and_then(|()| self.checks.on_acknowledged(self.clock.wall()));
        self.demand(verdict);
    }
}
