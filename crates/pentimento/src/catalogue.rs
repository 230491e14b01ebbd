//! The models that requests can name, loaded when they are needed and kept within a budget of memory, and the clock that
//! the engine itself does not have.

use crate::{
    cli::Dtype,
    config::CompanionNames,
    memory,
    room::PictureRoom,
    source::{Source, Stamp},
};
use anyhow::{Context, Result, anyhow};
use pentimento_diffusion::{
    Brought, Library, LoadOptions, Model, ModelSummary, PictureMemory, Precision, fastest_floats,
};
use pentimento_request::{
    Cancel, ErrorKind, GenerateError, GeneratedImage, GenerationRequest, Generator, Progress, Quiet, Stage,
    StageTiming, StepReport,
};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tracing::info;

/// The engine's precision for what the user asked for.
pub(crate) fn precision(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
        Dtype::Int8 => Precision::Int8,
        Dtype::Auto => fastest_floats(),
    }
}

/// A model that can be asked for: where it lies, and how it is loaded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// Where it lies.
    pub(crate) source: Source,
    /// Precision of the arithmetic.
    pub(crate) precision: Precision,
    /// Largest picture, in pixels, that it works at.
    pub(crate) pixel_cap: u64,
    /// What goes with it.
    pub(crate) companions: CompanionNames,
}

/// Names of the models on offer, each told apart from the others.
#[derive(Debug, Default)]
pub(crate) struct Offers(BTreeMap<String, Offered>);

impl Offers {
    /// Adds a model, unless the same one is there already, and answers its name here. Two models whose folders have the
    /// same name are told apart by a number.
    pub(crate) fn add(&mut self, offered: Offered) -> String {
        if let Some((name, _)) = self.0.iter().find(|(_, known)| **known == offered) {
            return name.clone();
        }
        let plain = offered.source.name();
        let mut name = plain.clone();
        let mut number = 1;
        while self.0.contains_key(&name) {
            number += 1;
            name = format!("{plain}-{number}");
        }
        self.0.insert(name.clone(), offered);
        name
    }
}

/// The models by name. They are loaded when they are first asked for, and leave in the order of their last use when
/// others need their memory; whoever draws with one keeps it until the picture is done.
pub(crate) struct Catalogue {
    shelf: Mutex<Shelf>,
    /// Adapters and control networks that requests may name.
    library: Arc<dyn Library>,
    /// Rung when a model was loaded, or was let go by a request.
    changed: Condvar,
}

/// What the lock guards. It is held for bookkeeping only, never while a model is loaded or draws.
struct Shelf {
    places: BTreeMap<String, Place>,
    /// Models that are no longer on offer and perhaps still drawing, with their memory.
    leaving: Vec<(Weak<Model>, u64)>,
    /// Bytes that all models together may take; no limit where it is absent.
    budget: Option<u64>,
    /// What drawing a picture may take beside them.
    room: PictureRoom,
    /// Counts requests, so that it is known which model was asked for last.
    clock: u64,
}

/// A model's place on the shelf.
struct Place {
    offered: Offered,
    /// What its files were when it was put on offer.
    stamp: Stamp,
    /// Bytes that it takes once it is loaded, as its files' headers tell.
    memory: u64,
    /// What its pictures take beside it.
    pictures: PictureMemory,
    last_used: u64,
    /// Whether it is no longer on offer: requests that were taken in before are still answered by it.
    withdrawn: bool,
    state: State,
}

enum State {
    Absent,
    Loading,
    Loaded(Arc<Model>),
}

impl Catalogue {
    /// A catalogue of these models, none of them loaded. Their headers are read, so that what is missing or too large is
    /// told at once.
    ///
    /// # Errors
    /// As [`Source::inspect`], and where a model alone is more than the budget.
    pub(crate) fn new(offers: Offers, budget: Option<u64>, library: Arc<dyn Library>) -> Result<Self> {
        let (places, room) = (places(offers, budget)?, PictureRoom::Any);
        let shelf = Shelf { places, leaving: Vec::new(), budget, room, clock: 0 };
        Ok(Self { shelf: Mutex::new(shelf), library, changed: Condvar::new() })
    }

    /// Where requests' adapters, control networks and face networks come from.
    pub(crate) fn library(&self) -> &dyn Library {
        &*self.library
    }

    /// Offers other models. Those that stay on offer unchanged stay loaded; the others leave when nobody draws with them
    /// any more, and until the next change they answer the requests that were taken in before. On an error nothing is
    /// changed.
    ///
    /// # Errors
    /// As [`Catalogue::new`].
    pub(crate) fn replace(&self, offers: Offers, budget: Option<u64>) -> Result<()> {
        let mut places = places(offers, budget)?;
        let mut shelf = self.lock();
        for (name, mut old) in std::mem::take(&mut shelf.places) {
            let new = places.get_mut(&name);
            let has_no_successor = new.is_none();
            // One that is being loaded comes back to its name only while it is the same.
            if let Some(new) = new
                && new.offered == old.offered
                && new.stamp == old.stamp
            {
                old.withdrawn = false;
                *new = old;
                continue;
            }
            if let State::Loaded(model) = std::mem::replace(&mut old.state, State::Absent) {
                shelf.leaving.push((Arc::downgrade(&model), old.memory));
            }
            if has_no_successor && !old.withdrawn {
                places.insert(name, Place { withdrawn: true, ..old });
            }
        }
        shelf.places = places;
        shelf.budget = budget;
        drop(shelf);
        self.changed.notify_all();
        Ok(())
    }

    /// Admits only pictures for which there is room, from now on.
    pub(crate) fn set_room(&self, room: PictureRoom) {
        self.lock().room = room;
    }

    /// Loads a model now, if it is the only one: then its faults are told at once instead of to the first client.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub(crate) fn load_the_only_one(&self) -> Result<()> {
        let only = {
            let shelf = self.lock();
            let mut names = shelf.places.keys();
            names.next().filter(|_| names.next().is_none()).cloned()
        };
        match only {
            Some(name) => self.load(&name),
            None => Ok(()),
        }
    }

    /// Loads a model now.
    ///
    /// # Errors
    /// As [`Model::load`].
    fn load(&self, name: &str) -> Result<()> {
        self.take(name, &mut Quiet).map(drop).map_err(anyhow::Error::from)
    }

    /// A model to draw with, loaded if it is not, once there is room for it.
    fn take(&self, name: &str, progress: &mut dyn Progress) -> Result<InUse<'_>, GenerateError> {
        let mut shelf = self.lock();
        let offered = loop {
            match shelf.ask(name)? {
                Asked::Ready(model) => return Ok(InUse { model: Some(model), catalogue: self }),
                Asked::Load(offered) => break offered,
                Asked::Wait => {}
            }
            shelf = self.changed.wait_timeout(shelf, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
            if progress.part().is_break() {
                return Err(GenerateError::new(
                    ErrorKind::Cancelled,
                    "left while waiting for a model's room",
                ));
            }
        };
        drop(shelf);
        let bed = Bed { catalogue: self, name, offered };
        if progress.stage(Stage::Load).is_break() {
            return Err(GenerateError::new(ErrorKind::Cancelled, "left before the model was loaded"));
        }
        let model = Arc::new(bed.load()?);
        bed.lie_down(&model);
        Ok(InUse { model: Some(model), catalogue: self })
    }

    /// A panic while the lock was held cannot have left more than a model that is loaded again.
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of somebody who asks for a model.
enum Asked {
    /// Here it is.
    Ready(Arc<Model>),
    /// It has to be loaded, by who asks; there is room, and others wait for it from now on.
    Load(Offered),
    /// It is just being loaded, or others draw with what would have to leave.
    Wait,
}

impl Shelf {
    fn ask(&mut self, name: &str) -> Result<Asked, GenerateError> {
        self.clock += 1;
        let clock = self.clock;
        let Some(place) = self.places.get_mut(name) else { return Err(self.unknown(name)) };
        place.last_used = clock;
        match &place.state {
            State::Loaded(model) => return Ok(Asked::Ready(Arc::clone(model))),
            State::Loading => return Ok(Asked::Wait),
            State::Absent => {}
        }
        let need = place.memory;
        if !self.make_room(need) {
            return Ok(Asked::Wait);
        }
        let Some(place) = self.places.get_mut(name) else { return Err(self.unknown(name)) };
        place.state = State::Loading;
        Ok(Asked::Load(place.offered.clone()))
    }

    fn unknown(&self, name: &str) -> GenerateError {
        let on_offer = self.places.iter().filter(|(_, place)| !place.withdrawn);
        let known: Vec<_> = on_offer.map(|(name, _)| name.as_str()).collect();
        let message = format!("no model '{name}'; known are {}", known.join(", "));
        GenerateError::new(ErrorKind::ModelNotFound, message)
    }

    /// Lets models go, the longest unused first, until there is room for so many bytes. `false` when what is left is in
    /// use.
    fn make_room(&mut self, need: u64) -> bool {
        let Some(budget) = self.budget else { return true };
        loop {
            self.leaving.retain(|(model, _)| model.strong_count() > 0);
            let leaving: u64 = self.leaving.iter().map(|(_, memory)| memory).sum();
            let held = |place: &&Place| !matches!(place.state, State::Absent);
            let taken: u64 =
                leaving + self.places.values().filter(held).map(|place| place.memory).sum::<u64>();
            if taken.saturating_add(need) <= budget {
                return true;
            }
            let idle = |place: &&mut Place| match &place.state {
                State::Loaded(model) => Arc::strong_count(model) == 1,
                State::Absent | State::Loading => false,
            };
            match self.places.values_mut().filter(idle).min_by_key(|place| place.last_used) {
                Some(place) => place.state = State::Absent,
                None => return false,
            }
        }
    }
}

/// A place that is being filled. Should filling it fail or panic, the place is free again.
struct Bed<'a> {
    catalogue: &'a Catalogue,
    name: &'a str,
    offered: Offered,
}

impl Bed<'_> {
    fn load(&self) -> Result<Model, GenerateError> {
        let Offered { source, precision, pixel_cap, companions } = &self.offered;
        let CompanionNames { canny, tile, face } = companions.clone();
        let options = LoadOptions {
            precision: *precision,
            library: self.catalogue.library.clone(),
            canny,
            tile,
            face,
            ..LoadOptions::new(self.name, *pixel_cap)
        };
        let since = Instant::now();
        let loaded = source.files().and_then(|files| Ok(Model::load(&*files, options)?));
        let model = loaded.map_err(|error| {
            let message = format!("the model {} cannot be loaded: {error:#}", self.name);
            GenerateError::new(ErrorKind::Internal, message)
        })?;
        let took_ms = since.elapsed().as_millis() as u64;
        info!(model = self.name, native_size = %model.native_size(), took_ms, "model loaded");
        Ok(model)
    }

    fn lie_down(self, model: &Arc<Model>) {
        let mut shelf = self.catalogue.lock();
        if let Some(place) = shelf.places.get_mut(self.name).filter(|place| place.offered == self.offered) {
            place.state = State::Loaded(Arc::clone(model));
        }
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        let mut shelf = self.catalogue.lock();
        if let Some(place) = shelf.places.get_mut(self.name)
            && matches!(place.state, State::Loading)
        {
            place.state = State::Absent;
        }
        drop(shelf);
        self.catalogue.changed.notify_all();
    }
}

/// A model that somebody draws with.
struct InUse<'a> {
    model: Option<Arc<Model>>,
    catalogue: &'a Catalogue,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        // Let go first, so that whoever is woken finds it idle.
        self.model = None;
        self.catalogue.changed.notify_all();
    }
}

/// Time after which somebody who waits for room looks whether its client is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Places for all that is offered, with what their headers say.
fn places(offers: Offers, budget: Option<u64>) -> Result<BTreeMap<String, Place>> {
    let place = |(name, offered): (String, Offered)| {
        let summary = offered.source.inspect().with_context(|| format!("model {name}"))?;
        let memory = memory_of(&summary, offered.precision);
        if let Some(budget) = budget.filter(|budget| memory > *budget) {
            return Err(anyhow!(
                "the model {name} takes about {memory} bytes of memory, more than the {budget} that models may take \
                 (limits.model_memory_bytes)"
            ));
        }
        let stamp = offered.source.stamp()?;
        let (pictures, last_used, state) = (summary.picture_memory, 0, State::Absent);
        Ok((name, Place { offered, stamp, memory, pictures, last_used, withdrawn: false, state }))
    };
    offers.0.into_iter().map(place).collect()
}

/// Bytes that a model's weights take when they are packed for this precision.
pub(crate) fn memory_of(summary: &ModelSummary, precision: Precision) -> u64 {
    summary.parts.iter().fold(0, |sum, part| sum.saturating_add(part.memory(precision)))
}

impl Generator for Catalogue {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        let mut timed = Timed { listener: progress, running: None, finished: Vec::new() };
        let held = self.take(&request.model, &mut timed)?;
        let Some(model) = &held.model else {
            return Err(GenerateError::new(ErrorKind::Internal, "a model left while it was held"));
        };
        let mut image = model.generate(request, &mut timed)?;
        image.receipt.timings = timed.finish();
        image.receipt.peak_memory = memory::peak();
        Ok(image)
    }

    fn admit(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        let (pictures, offered, memory, room) = {
            let shelf = self.lock();
            let Some(place) = shelf.places.get(&request.model) else {
                return Err(shelf.unknown(&request.model));
            };
            (place.pictures.clone(), place.offered.clone(), place.memory, shelf.room)
        };
        // Files may be opened for the first time here, so the lock is let go.
        let Offered { source: _, precision, pixel_cap, companions } = offered;
        let CompanionNames { canny, tile, face } = &companions;
        let library = &*self.library;
        let (canny, tile, face) = (canny.as_deref(), tile.as_deref(), face.as_deref());
        let brought = pictures.brought(request, Brought { library, canny, tile, face, precision });
        room.check(memory, pictures.of(request, pixel_cap)?.saturating_add(brought))
    }
}

/// Hands everything on to a listener, and takes the time of the stages.
struct Timed<'a> {
    listener: &'a mut dyn Progress,
    running: Option<(Stage, Instant)>,
    finished: Vec<StageTiming>,
}

impl Timed<'_> {
    fn close(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.finished.push(StageTiming { stage, took: since.elapsed() });
        }
    }

    fn finish(mut self) -> Vec<StageTiming> {
        self.close();
        self.finished
    }
}

impl Progress for Timed<'_> {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.close();
        self.running = Some((stage, Instant::now()));
        self.listener.stage(stage)
    }

    fn part(&mut self) -> ControlFlow<()> {
        self.listener.part()
    }

    fn switch(&self) -> Option<Cancel> {
        self.listener.switch()
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.listener.step(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_diffusion::EmptyLibrary;
    use std::sync::mpsc;

    /// The embedded model under several names, told apart by their limits.
    fn offers(caps: &[u64]) -> Offers {
        let mut offers = Offers::default();
        for cap in caps {
            let (source, precision) = (Source::Embedded, Precision::Bf16);
            offers.add(Offered { source, precision, pixel_cap: *cap, companions: CompanionNames::default() });
        }
        offers
    }

    fn one() -> u64 {
        memory_of(&Source::Embedded.inspect().expect("it is sound"), Precision::Bf16)
    }

    fn catalogue(caps: &[u64], budget: u64) -> Catalogue {
        Catalogue::new(offers(caps), Some(budget), Arc::new(EmptyLibrary)).expect("they fit")
    }

    fn loaded(catalogue: &Catalogue) -> Vec<String> {
        let shelf = catalogue.lock();
        let is_loaded = |place: &Place| matches!(place.state, State::Loaded(_));
        let names = shelf.places.iter().filter(|(_, place)| is_loaded(place));
        names.map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn the_longest_unused_leaves_and_whoever_draws_keeps_its_model() {
        let catalogue = catalogue(&[1, 2, 3], 2 * one());
        assert_eq!(loaded(&catalogue), [""; 0], "nothing is loaded before it is asked for");
        for name in ["default", "default-2", "default", "default-3"] {
            catalogue.load(name).expect("it is sound");
        }
        assert_eq!(loaded(&catalogue), ["default", "default-3"], "the second one was unused the longest");

        let held = catalogue.take("default", &mut Quiet).expect("it is there");
        catalogue.load("default-2").expect("it is sound");
        assert_eq!(loaded(&catalogue), ["default", "default-2"], "one that is drawn with stays");
        let also_held = catalogue.take("default-2", &mut Quiet).expect("it is there");
        std::thread::scope(|scope| {
            let (sender, done) = mpsc::channel();
            let catalogue = &catalogue;
            scope.spawn(move || sender.send(catalogue.load("default-3").is_ok()));
            assert!(done.recv_timeout(LOOK_AGAIN * 3).is_err(), "there is no room while both are drawn with");
            drop(held);
            assert_eq!(done.recv(), Ok(true), "there is, as soon as one is let go");
        });
        assert_eq!(loaded(catalogue_of(&also_held)), ["default-2", "default-3"]);
    }

    fn catalogue_of<'a>(held: &InUse<'a>) -> &'a Catalogue {
        held.catalogue
    }

    #[test]
    fn who_waits_for_room_may_leave() {
        struct Left;
        impl Progress for Left {
            fn part(&mut self) -> ControlFlow<()> {
                ControlFlow::Break(())
            }

            fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
                ControlFlow::Break(())
            }
        }
        let catalogue = catalogue(&[1, 2], one());
        let _held = catalogue.take("default", &mut Quiet).expect("it is sound");
        let error = catalogue.take("default-2", &mut Left).err().expect("there is no room");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn other_offers_keep_what_stays_and_answer_for_what_went() {
        let catalogue = catalogue(&[1, 2], 2 * one());
        for name in ["default", "default-2"] {
            catalogue.load(name).expect("it is sound");
        }
        assert!(catalogue.replace(offers(&[1]), Some(1)).is_err(), "it does not fit");
        assert_eq!(loaded(&catalogue).len(), 2, "what is refused changes nothing");
        catalogue.replace(offers(&[1]), Some(2 * one())).expect("it fits");
        assert_eq!(loaded(&catalogue), ["default"]);
        catalogue.load("default-2").expect("a request that was taken in before is still answered");
        let unknown = catalogue.take("nosuch", &mut Quiet).err().expect("there is none");
        assert_eq!(unknown.kind(), ErrorKind::ModelNotFound);
        assert!(!unknown.to_string().contains("default-2"), "it is no longer on offer: {unknown}");
    }

    #[test]
    fn a_model_that_never_fits_is_told_at_the_start() {
        let refused = Catalogue::new(offers(&[1]), Some(one() - 1), Arc::new(EmptyLibrary)).err();
        assert!(refused.expect("it is too large").to_string().contains("model_memory_bytes"));
    }
}
