-- Lets the followers of an ended job whose files are gone make the film themselves.
-- ARGV: the leader
-- Returns released | none.
local state = field(ARGV[1], 'state')
if state == 'queued' or state == 'in_progress' then
  return 'none'
end
redis.call('ZREM', HANDOUT, ARGV[1])
promote(ARGV[1])
return 'released'
