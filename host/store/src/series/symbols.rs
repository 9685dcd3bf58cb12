//! Label names and label values, each text once.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher as _;

/// The number of a text in [`Symbols`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Symbol(u32);

/// Texts by number, and numbers by text.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// All texts, one after another.
    texts: String,
    /// The start and the length of each text.
    places: Vec<(u32, u32)>,
    numbers: HashTable<u32>,
    /// Numbers without a text.
    free: Vec<u32>,
    hasher: DefaultHashBuilder,
}

impl Symbols {
    pub(super) fn get(&self, text: &str) -> Option<Symbol> {
        let is_it = |number: &u32| self.text(Symbol(*number)) == text;
        self.numbers.find(self.hasher.hash_one(text), is_it).map(|number| Symbol(*number))
    }

    /// Returns the number of a text, which it adds if it is new; `None` if there is no room for more texts: they may
    /// have 4 GiB together.
    pub(super) fn intern(&mut self, text: &str) -> Option<Symbol> {
        if let Some(known) = self.get(text) {
            return Some(known);
        }
        let (start, length) = (u32::try_from(self.texts.len()).ok()?, u32::try_from(text.len()).ok()?);
        start.checked_add(length)?;
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.places.push((0, 0));
                u32::try_from(self.places.len() - 1).ok()?
            }
        };
        if let Some(place) = self.places.get_mut(number as usize) {
            *place = (start, length);
        }
        self.texts.push_str(text);
        let Self { texts, places, numbers, hasher, .. } = self;
        numbers.insert_unique(hasher.hash_one(text), number, |number| {
            hasher.hash_one(text_at(texts, places, *number as usize))
        });
        Some(Symbol(number))
    }

    pub(super) fn text(&self, symbol: Symbol) -> &str {
        text_at(&self.texts, &self.places, symbol.0 as usize)
    }

    /// Forgets all texts but those of the given numbers, which keep their numbers.
    pub(super) fn keep_only(&mut self, used: impl Iterator<Item = Symbol>) {
        let mut is_used = vec![false; self.places.len()];
        used.for_each(|symbol| {
            if let Some(used) = is_used.get_mut(symbol.0 as usize) {
                *used = true;
            }
        });
        self.numbers.retain(|number| is_used.get(*number as usize).copied().unwrap_or(false));
        let mut kept = String::with_capacity(self.texts.len());
        self.free.clear();
        for (nth, is_used) in is_used.into_iter().enumerate() {
            let Some(place) = self.places.get_mut(nth) else { continue };
            if is_used {
                let text = self.texts.get(place.0 as usize..(place.0 + place.1) as usize).unwrap_or_default();
                // The kept texts are not longer than all texts.
                *place = (kept.len() as u32, place.1);
                kept.push_str(text);
            } else {
                *place = (0, 0);
                self.free.push(nth as u32);
            }
        }
        kept.shrink_to_fit();
        self.texts = kept;
    }

    /// Returns the bytes of the texts.
    pub(super) fn text_bytes(&self) -> usize {
        self.texts.len()
    }

    /// Returns the bytes of memory beside the texts.
    pub(super) fn overhead(&self) -> usize {
        self.texts.capacity() - self.texts.len()
            + self.places.capacity() * size_of::<(u32, u32)>()
            + self.numbers.allocation_size()
            + self.free.capacity() * size_of::<u32>()
    }
}

fn text_at<'a>(texts: &'a str, places: &[(u32, u32)], number: usize) -> &'a str {
    let Some(&(start, length)) = places.get(number) else { return "" };
    texts.get(start as usize..start as usize + length as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_until_it_is_forgotten() {
        let mut symbols = Symbols::default();
        let [a, b, c] = ["alpha", "", "gamma"].map(|text| symbols.intern(text).unwrap());
        assert_eq!((symbols.intern("alpha"), symbols.get("gamma"), symbols.get("delta")), (Some(a), Some(c), None));
        symbols.keep_only([b, c].into_iter());
        assert_eq!((symbols.get("alpha"), symbols.text(b), symbols.text(c)), (None, "", "gamma"));
        assert_eq!(symbols.text_bytes(), "gamma".len());
        let d = symbols.intern("delta").unwrap();
        assert_eq!((symbols.text(d), symbols.get("gamma"), symbols.get("")), ("delta", Some(c), Some(b)));
    }
}
