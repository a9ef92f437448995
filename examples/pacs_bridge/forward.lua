-- For Orthanc: send each complete study to the bridge, once: not when the bridge's results make it stable again.
-- A job that fails, since the bridge is down or its disk full, is submitted again when the next study is complete and, with versions of
-- Orthanc that have OnHeartBeat, after LuaHeartBeatPeriod seconds. Jobs that failed before a restart of Orthanc are submitted by hand.
failed = {}

function OnStableStudy(studyId, tags, metadata, origin)
   SubmitAgain()
   if not HasResult(studyId) then
      local job = { Resources = { studyId }, Synchronous = false }
      RestApiPost("/modalities/cmb_bridge/store", DumpJson(job, true))
   end
end

function OnJobFailure(jobId)
   table.insert(failed, jobId)
end

function OnHeartBeat()
   SubmitAgain()
end

function SubmitAgain()
   local jobs = failed
   failed = {}
   for _, jobId in ipairs(jobs) do
      RestApiPost("/jobs/" .. jobId .. "/resubmit", "{}")
   end
end

function HasResult(studyId)
   for _, series in ipairs(ParseJson(RestApiGet("/studies/" .. studyId .. "/series"))) do
      if series["MainDicomTags"]["Manufacturer"] == "cmb-models" then
         return true
      end
   end
   return false
end
