//! Merges the chunks of a partition whose time is over: all of them into one file, frame by frame, several blocks to a
//! chunk, packed as densely as possible. It works in small steps between flushes.

use super::record;
use super::segment::{PARTITION_MS, PageEntry, Segment, SegmentWriter};
use super::{Archive, ArchivedFrame, MovedBlocks, live_pages};
use crate::codec::{self, Effort};
use crate::frame::{BlockRef, Blocks, Frame, UnreadableBlock};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

/// Blocks per chunk. More blocks are denser, but reading one of them reads all.
const MERGED: usize = 4;

/// A partition and the owner of its blocks. Segments of one group are merged together.
type MergeGroup = (i64, Option<Arc<str>>);

/// How long after the end of a partition its blocks are sealed, except very long blocks, in milliseconds.
const LATE_MS: i64 = 30 * 60_000;

/// The interval between searches for files with few live blocks, and the wait before a failed merge is retried, in
/// milliseconds.
const LOOK_MS: i64 = 3_600_000;

/// Bytes that are written at a time.
const WRITE: usize = 1 << 20;

/// A merge in progress.
#[derive(Debug)]
pub(super) struct PartitionMerge {
    writer: SegmentWriter,
    name: String,
    /// Numbers of the files that are merged.
    sources: Vec<u64>,
    /// Frames that are not merged yet.
    queue: VecDeque<Arc<Frame>>,
    /// Entries of merged frames in the new index: id and pages.
    index: Vec<(u32, Vec<PageEntry>)>,
    /// New places of the blocks of merged frames.
    moved: Vec<MovedBlocks>,
}

impl Archive {
    /// Continues merging, for about `blocks` blocks. Returns whether there was something to do.
    pub(crate) fn merge(&mut self, frames: &[Arc<Frame>], now_ms: i64, blocks: usize) -> io::Result<bool> {
        let merge = match self.merge.take() {
            Some(merge) => merge,
            None => match self.due_group(frames, now_ms) {
                Some(due) => self.begin_merge(frames, now_ms, due)?,
                None => return Ok(false),
            },
        };
        let segment = merge.writer.segment.clone();
        let names = [merge.name.clone(), segment.name()];
        let continued = self.continue_merge(merge, frames, blocks);
        if continued.is_err() {
            // The file exists under one of the two names, and its contents do not count.
            self.superfluous.extend(names.map(|name| (name, segment.size())));
            // Merge other partitions first.
            self.not_before.insert(segment.partition_ms, now_ms.saturating_add(LOOK_MS));
        }
        continued.map(|()| true)
    }

    fn continue_merge(&mut self, mut merge: PartitionMerge, frames: &[Arc<Frame>], blocks: usize) -> io::Result<()> {
        let mut done = 0;
        while done < blocks
            && let Some(frame) = merge.queue.pop_front()
        {
            let id = ArchivedFrame::of(&mut self.kept, &mut self.next_id, &frame).id;
            done += merge.add(id, &frame)?;
        }
        if merge.queue.is_empty() {
            self.finish_merge(merge)?;
            self.sweep(frames);
        } else {
            self.merge = Some(merge);
        }
        Ok(())
    }

    /// Returns a group that is due: its time is over, and it has files that are not merged or that have few live
    /// blocks.
    fn due_group(&mut self, frames: &[Arc<Frame>], now_ms: i64) -> Option<(MergeGroup, Vec<u64>)> {
        // Visiting every block takes long.
        let looked = self.looked_ms.replace(now_ms);
        let live = match looked {
            Some(looked) if (0..LOOK_MS).contains(&(now_ms - looked)) => {
                self.looked_ms = Some(looked);
                None
            }
            _ => Some(live_pages(frames)),
        };
        let mut groups: BTreeMap<MergeGroup, Vec<&Arc<Segment>>> = BTreeMap::new();
        for segment in self.segments.values() {
            groups.entry((segment.partition_ms, segment.owner().cloned())).or_default().push(segment);
        }
        let due = |((partition_ms, _), segments): &(MergeGroup, Vec<&Arc<Segment>>)| {
            let bytes = |settled: bool| -> u64 {
                segments.iter().filter(|segment| segment.settled == settled).map(|segment| segment.size()).sum()
            };
            let fresh = segments.iter().filter(|segment| !segment.settled).count();
            let is_dead = |segment: &&Arc<Segment>| {
                let live = live.as_ref().map(|live| live.get(&segment.number).copied().unwrap_or(0));
                segment.settled && live.is_some_and(|live| 4 * live < segment.pages())
            };
            let over = partition_ms.saturating_add(PARTITION_MS + LATE_MS) <= now_ms
                && self
                    .not_before
                    .get(partition_ms)
                    .is_none_or(|time| !(now_ms..=now_ms.saturating_add(LOOK_MS)).contains(time));
            // A few late blocks are not worth rewriting all the others.
            over && (fresh > 0 && (fresh >= 8 || bytes(false) * 10 >= bytes(true)) || segments.iter().any(is_dead))
        };
        let (group, segments) = groups.into_iter().find(due)?;
        Some((group, segments.iter().map(|segment| segment.number).collect()))
    }

    fn begin_merge(
        &mut self,
        frames: &[Arc<Frame>],
        now_ms: i64,
        ((partition_ms, owner), sources): (MergeGroup, Vec<u64>),
    ) -> io::Result<PartitionMerge> {
        // New blocks of this partition go to another file from now on.
        self.writers.retain(|_, writer| !sources.contains(&writer.segment.number));
        self.next_number += 1;
        let number = self.next_number;
        let name = format!("tmp-{number:010}");
        let writer = SegmentWriter::create(&*self.disk, &name, (partition_ms, number, true), owner.as_ref(), &sources);
        let writer = writer.inspect_err(|_| self.superfluous.push((name.clone(), 0)))?;
        let has_some = |frame: &&Arc<Frame>| {
            frame.view().blocks.iter().any(|blocks| blocks.file().is_some_and(|number| sources.contains(&number)))
        };
        let mut queue: Vec<_> = frames.iter().filter(has_some).cloned().collect();
        queue.sort_by(|a, b| {
            let order = |frame: &Arc<Frame>| (frame.key().instance.clone(), frame.schema().sampler().clone());
            order(a).cmp(&order(b))
        });
        let mut writer = writer;
        let ids: Vec<_> =
            queue.iter().map(|frame| ArchivedFrame::of(&mut self.kept, &mut self.next_id, frame).id).collect();
        let defined = writer.define(ids.into_iter().zip(queue.iter().map(|frame| frame.key())));
        defined.inspect_err(|_| {
            self.superfluous.push((name.clone(), 0));
            self.not_before.insert(partition_ms, now_ms.saturating_add(LOOK_MS));
        })?;
        Ok(PartitionMerge { writer, name, sources, queue: queue.into(), index: Vec::new(), moved: Vec::new() })
    }

    fn finish_merge(&mut self, merge: PartitionMerge) -> io::Result<()> {
        let PartitionMerge { mut writer, name, index, moved, .. } = merge;
        writer.finish(&index)?;
        writer.write()?;
        writer.sync()?;
        self.disk.rename(&name, &writer.segment.name())?;
        self.disk.sync()?;
        self.segments.insert(writer.segment.number, writer.segment.clone());
        for (frame, places) in moved {
            frame.moved(&places);
        }
        Ok(())
    }
}

impl PartitionMerge {
    /// Returns the bytes that were written so far.
    pub(super) fn size(&self) -> u64 {
        self.writer.segment.size()
    }

    /// Merges a frame's blocks. Returns how many there were.
    fn add(&mut self, id: u32, frame: &Arc<Frame>) -> io::Result<usize> {
        let view = frame.view();
        let is_source = |blocks: &&Blocks| blocks.file().is_some_and(|number| self.sources.contains(&number));
        let blocks: Vec<BlockRef<'_>> = view.blocks.iter().filter(is_source).flat_map(Blocks::each).collect();
        let mut pages = Vec::new();
        let mut places = Vec::new();
        // A chunk must fit one record, whatever the blocks hold.
        let fits = record::MOST / 2 / (codec::MOST_ROWS * frame.schema().columns().max(1) * 8);
        for merged in blocks.chunks(MERGED.min(fits.max(1))) {
            let mut readable = Vec::new();
            for block in merged {
                match block.unpack(frame.schema()) {
                    Ok(rows) => {
                        let cells = rows.clone().into_values(frame.schema()).parts(frame.schema(), frame.layout());
                        readable.push((block, rows, cells.whole(frame.schema())));
                    }
                    Err(UnreadableBlock::Io(error)) => return Err(error),
                    Err(error @ UnreadableBlock::Corrupt(_)) => {
                        frame.unreadable(&error);
                        frame.discard(block.id);
                    }
                }
            }
            if readable.is_empty() {
                continue;
            }
            let rows: Vec<_> = readable.iter().map(|(_, rows, _)| rows).collect();
            let cells: Vec<_> = readable.iter().map(|(_, _, cells)| &cells[..]).collect();
            let chunk = codec::encode(frame.schema(), &rows, &cells, Effort::Dense);
            let at = self.writer.add(id, frame.key(), &chunk)?;
            for (page, (block, rows, _)) in readable.iter().enumerate() {
                let place = self.writer.place(at, page);
                places.push((block.place.clone(), place.clone()));
                pages.push(PageEntry { rows: rows.len(), place, ..block.page() });
            }
        }
        if self.writer.pending() >= WRITE {
            self.writer.write()?;
        }
        if !pages.is_empty() {
            self.index.push((id, pages));
            self.moved.push((frame.clone(), places));
        }
        Ok(blocks.len())
    }
}
