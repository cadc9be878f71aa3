-- After `reclassify` of a year tens of thousands of slots are stale, and each that is counted would be searched for among
-- all of them.
create index stale_slots_by_time on stale_slots (slot_at);
