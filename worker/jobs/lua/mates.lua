-- Hands out jobs to be made in one batch with one that was just taken, into their queue's
-- intermediate list. Only those who are next anyway: nobody is passed over, so the first that does
-- not fit ends it, as does any that waits in a list that is served before.
-- ARGV: token of this call, id of the job, most, seconds that each must have waited, the queue's
--       intermediate list, lists that are served before it
-- Returns ids. The same token takes the same jobs for a minute.
local token, leader, most, patience = TAKEN .. ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local queue, kind = field(leader, 'queue'), field(leader, 'kind')

local function fits(id)
  local row = redis.call('HMGET', JOB .. id, 'kind', 'attempt', 'created_at')
  -- One that was given back is made alone: it may be what ended its batch.
  return row[1] == kind and row[2] == '0' and now() - tonumber(row[3]) >= patience
end

local function may_go_on()
  for i = 6, #ARGV do
    if not is_paused(ARGV[i]) and first_of(ARGV[i]) then
      return false
    end
  end
  local id = first_of(queue)
  return id and fits(id)
end

local taken = redis.call('GET', token)
local ids = {}
if taken then
  for id in string.gmatch(taken, '%S+') do
    ids[#ids + 1] = id
  end
  return ids
end
if not kind or kind == '' or is_paused(queue) then
  return ids
end
while #ids < most and may_go_on() do
  ids[#ids + 1] = next_of(queue)
  redis.call('RPUSH', ARGV[5], ids[#ids])
end
if #ids > 0 then
  redis.call('SET', token, table.concat(ids, ' '), 'EX', 60)
  redis.call('HINCRBY', TALLY, 'batched\t' .. field(leader, 'model') .. '\t' .. (#ids + 1), 1)
end
return ids
