-- Finds the job that an earlier submission made, as ADMIT would, and changes nothing.
-- ARGV: tenant, fingerprint, hash of the idempotency key or '', '1' for a declared retry
-- Returns {replay | conflict | none, id}.
return recall(ARGV[1], ARGV[2], ARGV[3], ARGV[4]) or { 'none', '' }
