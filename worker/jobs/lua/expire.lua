-- Ends a job that waited past its queue deadline or ran past its time limit.
-- ARGV: id, seconds that a running attempt may take longer than its limit, queue entry
-- Returns expired | timeout | none | gone: a live id without a live row is forgotten.
local id, grace, entry = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local state = field(id, 'state')
if state == 'queued' and now() > tonumber(field(id, 'queue_deadline')) then
  fail(id, 'expired', 'The job waited longer than allowed for a worker.', '')
  leave(id) -- only now: a follower may have taken its place
  redis.call('EXPIRE', entry, 3600)
  return 'expired'
end
if state == 'in_progress' then
  local limit = tonumber(field(id, 'claimed_at')) + tonumber(field(id, 'job_timeout')) + grace
  if now() > limit then
    log_attempt(id, 'timeout')
    fail(id, 'timeout', 'The job ran longer than allowed.', '')
    return 'timeout'
  end
end
if not state or state == 'completed' or state == 'failed' then
  redis.call('SREM', LIVE, id)
  return 'gone'
end
return 'none'
