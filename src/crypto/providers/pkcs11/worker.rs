//! One thread that signs: its session, the ladder, verification before release.
//!
//! ```text
//! job -> session, handle, C_Sign -> low s -> verify -> answer
//!           | fault: the next rung (`error`), each once, until the deadline
//!           | no session: the job goes back to the pool
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use crossbeam_channel::select;
use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::EddsaParams;
use cryptoki::mechanism::eddsa::EddsaSignatureScheme;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use crate::crypto::keys;
use crate::crypto::providers::pkcs11::error::Fault;
use crate::crypto::providers::pkcs11::error::Rung;
use crate::crypto::providers::pkcs11::error::TokenError;
use crate::crypto::providers::pkcs11::error::next_rung;
use crate::crypto::providers::pkcs11::error::typed;
use crate::crypto::providers::pkcs11::module::GateError;
use crate::crypto::providers::pkcs11::module::Inside;
use crate::crypto::providers::pkcs11::object;
use crate::crypto::providers::pkcs11::pool::Job;
use crate::crypto::providers::pkcs11::pool::Shared;
use crate::crypto::providers::pkcs11::pool::lock;
use crate::crypto::providers::pkcs11::seats::Seat;
use crate::crypto::providers::pkcs11::seats::Sessions;
use crate::crypto::providers::pkcs11::token;
use crate::crypto::validity;
use crate::types::digest::Digest;
use crate::types::signature::Algorithm;
use crate::types::signature::Signature;

/// One thread.
pub(super) struct Worker {
    number: u64,
    shared: Arc<Shared>,
    waiting: Receiver<Job>,
    desk: Option<Desk>,
}

/// What became of a job's worker.
enum Served {
    Done,
    /// It ends.
    Left,
}

/// A session and what was found through it.
struct Desk {
    session: Session,
    seat: Seat,
    generation: u64,
    keys: BTreeMap<String, ObjectHandle>,
}

impl Worker {
    pub(super) fn new(number: u64, shared: Arc<Shared>, waiting: Receiver<Job>) -> Self {
        Self { number, shared, waiting, desk: None }
    }

    pub(super) fn run(mut self) {
        let (shared, waiting) = (self.shared.clone(), self.waiting.clone());
        loop {
            let job = select! {
                recv(shared.returned.1) -> job => job,
                recv(waiting) -> job => job,
                default(IDLE) => {
                    self.probe();
                    continue;
                }
            };
            // The channel is closed: the pool ends.
            let Ok(job) = job else { break };
            match self.serve(job) {
                Served::Done => {}
                Served::Left => break,
            }
        }
        self.end();
    }

    /// Asks for a session first; without one there is nothing to stay for.
    pub(super) fn run_probe(mut self, seat: Seat) {
        let shared = self.shared.clone();
        if let Ok(inside) = shared.token.module.enter(Instant::now() + BUSY_PAUSE)
            && let Ok(session) = shared.token.session(&inside)
        {
            let (generation, keys) = (inside.generation, BTreeMap::new());
            self.desk = Some(Desk { session, seat, generation, keys });
        } else {
            shared.seats.probe_failed();
            return self.end();
        }
        let sessions = shared.seats.grown();
        let name = &shared.token.config.name;
        tracing::info!(token = name, size = sessions.size, "the token gives a session more");
        self.run();
    }

    fn end(mut self) {
        self.drop_session();
        self.shared.leave();
    }

    /// Answers a job, or hands it back where there is no session for it.
    fn serve(&mut self, job: Job) -> Served {
        *lock(&job.taken) = Some(self.number);
        let began = Instant::now();
        let result = match job.until <= Instant::now() {
            true => Err(TokenError::Late {
                token: self.shared.token.config.name.clone(),
                ms: self.shared.token.config.deadline.as_millis(),
            }),
            false => self.climb(&job),
        };
        let given_up = lock(&self.shared.lost).contains(&self.number);
        if matches!(result, Err(TokenError::Full { .. })) && !given_up && self.shared.seats.leave()
        {
            *lock(&job.taken) = None;
            // The queue is as long as the one in front: a full one means that its caller is gone.
            let _ = self.shared.returned.0.try_send(job);
            return Served::Left;
        }
        match &result {
            Ok(_) => {
                lock(&self.shared.counts).signed += 1;
                self.shared.presence.signed();
            }
            Err(error) => {
                lock(&self.shared.counts).failed += 1;
                // One that came too late in the queue says nothing about the token.
                if job.until > began {
                    self.shared.presence.did_not_sign(error);
                }
            }
        }
        // A caller that gave up needs no answer.
        let _ = job.answer.try_send(result);
        match lock(&self.shared.lost).remove(&self.number) {
            // Given up while it was inside: another has its place.
            true => {
                if let Some(desk) = &mut self.desk {
                    desk.seat.given_up = true;
                }
                Served::Left
            }
            false => Served::Done,
        }
    }

    /// Attempts and rungs in turn, until a signature, the top of the ladder or the deadline.
    fn climb(&mut self, job: &Job) -> Result<Signature, TokenError> {
        let mut taken = Vec::new();
        loop {
            let fault = match self.attempt(job) {
                Ok(signature) => {
                    self.shared.token.module.works();
                    return Ok(signature);
                }
                Err(fault) => fault,
            };
            let name = &self.shared.token.config.name;
            // While others have sessions, the job is theirs.
            let full = matches!(fault, Fault::Typed(TokenError::Full { .. }));
            if full && self.shared.seats.others() {
                return Err(typed(fault, name));
            }
            let rung = next_rung(&fault, &taken).filter(|_| Instant::now() < job.until);
            let Some(rung) = rung else { return Err(typed(fault, name)) };
            if self.shared.may_tell() {
                tracing::warn!(token = name, %fault, rung = rung.name(), "a token failed");
            }
            *lock(&self.shared.counts).rungs.entry(rung.name()).or_default() += 1;
            taken.push(rung);
            self.step(rung, job)?;
        }
    }

    fn step(&mut self, rung: Rung, job: &Job) -> Result<(), TokenError> {
        let shared = self.shared.clone();
        let token = &shared.token;
        match rung {
            Rung::Session => self.drop_session(),
            Rung::Pause => {
                self.drop_session();
                std::thread::sleep(BUSY_PAUSE);
            }
            Rung::Login => {
                let inside = token.module.enter(job.until);
                let _inside = inside.map_err(|error| self.gate(error))?;
                // A login that fails for another reason than the PIN is the module's business.
                if let Err(Fault::Typed(error)) = token.log_in_again() {
                    return Err(error);
                }
                if let Some(desk) = &mut self.desk {
                    desk.keys.clear();
                }
            }
            Rung::Key => {
                if let Some(desk) = &mut self.desk {
                    desk.keys.clear();
                }
            }
            Rung::Module => {
                let seen = self.desk.as_ref().map(|desk| desk.generation);
                let seen = match seen {
                    Some(seen) => seen,
                    None => {
                        let inside = token.module.enter(job.until);
                        inside.map_err(|error| self.gate(error))?.generation
                    }
                };
                // Its handle means nothing after this.
                self.desk = None;
                token.module.reinitialise(seen, job.until).map_err(|error| self.gate(error))?;
            }
        }
        Ok(())
    }

    fn attempt(&mut self, job: &Job) -> Result<Signature, Fault> {
        let shared = self.shared.clone();
        let token = &shared.token;
        let inside = match token.module.enter(job.until) {
            Ok(inside) => inside,
            Err(error) => return Err(self.gate(error).into()),
        };
        if self.desk.as_ref().is_some_and(|desk| desk.generation != inside.generation) {
            self.desk = None;
        }
        let desk = match &mut self.desk {
            Some(desk) => desk,
            None => {
                let (session, seat) = self.open(&inside)?;
                let (generation, keys) = (inside.generation, BTreeMap::new());
                self.desk.insert(Desk { session, seat, generation, keys })
            }
        };
        let target = &job.target;
        let place = target.select.to_string();
        let handle = match desk.keys.get(&place) {
            Some(handle) => *handle,
            None => {
                let name = &token.config.name;
                let found = object::refind(&desk.session, name, &target.select, &target.public);
                let handle = match found {
                    Err(Fault::Typed(TokenError::KeyMissing { .. }))
                        if !token::is_logged_in(&desk.session)? =>
                    {
                        return Err(Fault::LoggedOut);
                    }
                    found => found?,
                };
                desk.keys.insert(place, handle);
                handle
            }
        };
        let bytes = sign(&desk.session, handle, target.public.algorithm(), &job.message)?;
        let mut signature = keys::signature_of(&bytes).map_err(|_| Fault::Wrong)?;
        if target.public.algorithm() == Algorithm::EcdsaP256 {
            validity::normalise_s(&mut signature);
        }
        // A broken device, a wrong handle and a bit flip on the way all end here.
        match target.prepared.verify(&job.message, &signature).valid {
            true => Ok(signature),
            false => Err(Fault::Wrong),
        }
    }

    /// Opens a session in a seat of the pool.
    fn open(&self, inside: &Inside<'_>) -> Result<(Session, Seat), Fault> {
        let (token, seats) = (&self.shared.token, &self.shared.seats);
        let name = &token.config.name;
        let Some(seat) = seats.take() else {
            return Err(TokenError::Full { token: name.clone() }.into());
        };
        match token.session(inside) {
            Err(Fault::Typed(error @ TokenError::Full { .. })) => {
                let Sessions { size, wanted, refused } = seats.refused(seat);
                if self.shared.may_tell() {
                    tracing::warn!(
                        token = name,
                        size,
                        wanted,
                        refused,
                        "fewer sessions than asked"
                    );
                }
                Err(error.into())
            }
            opened => Ok((opened?, seat)),
        }
    }

    /// Keeps idle device sessions alive and notices dead ones before a vote does.
    fn probe(&mut self) {
        let Some(desk) = &self.desk else { return };
        let Ok(inside) = self.shared.token.module.enter(Instant::now() + BUSY_PAUSE) else {
            return;
        };
        let dead = desk.generation != inside.generation || desk.session.get_session_info().is_err();
        drop(inside);
        if dead {
            self.drop_session();
        }
    }

    /// Closes the session, where it is of the module's present generation.
    fn drop_session(&mut self) {
        let Some(desk) = self.desk.take() else { return };
        if let Ok(inside) = self.shared.token.module.enter(Instant::now() + BUSY_PAUSE)
            && inside.generation == desk.generation
        {
            // A dead session cannot be closed; nothing is lost.
            let _ = desk.session.close();
        }
    }

    fn gate(&self, error: GateError) -> TokenError {
        if let GateError::Stuck = error {
            (self.shared.fatal)(format!(
                "a call into the module {} does not return, so that it cannot be initialised anew; \
                 only a new process helps",
                self.shared.token.module.path().display()
            ));
        }
        error.typed(&self.shared.token)
    }
}

fn sign(
    session: &Session,
    handle: ObjectHandle,
    algorithm: Algorithm,
    message: &[u8],
) -> Result<Vec<u8>, Pkcs11Error> {
    match algorithm {
        // The digest is ours and has 32 bytes: tokens sign longer ones without a word.
        Algorithm::EcdsaP256 => session.sign(&Mechanism::Ecdsa, handle, &Digest::of(&[message]).0),
        Algorithm::Ed25519 => {
            let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&pure, handle, message)
        }
    }
}

/// Some devices end a session that was idle for 30 s.
const IDLE: Duration = Duration::from_secs(15);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
