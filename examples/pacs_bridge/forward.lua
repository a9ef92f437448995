-- For Orthanc: send each complete study with MR images to the bridge, and again when its number of MR images has changed: not when the
-- bridge's results make it stable again. Orthanc keeps that number with the study, also over a restart.
-- A study whose sending failed, since the bridge is down or its disk full, is sent again when the next study is complete and, with
-- versions of Orthanc that have OnHeartBeat, after LuaHeartBeatPeriod seconds. What failed before a restart of Orthanc is sent by hand.
IMAGES_SENT = "1024"  -- a study's metadata; Orthanc leaves numbers from 1024 on to users
waiting = {}          -- set of studies to send
jobs = {}             -- study and number of its MR images, by job that sends it

function OnStableStudy(studyId, tags, metadata, origin)
   if CountImages(studyId) ~= tonumber(metadata[IMAGES_SENT] or 0) then
      waiting[studyId] = true
   end
   SendWaiting()
end

function OnHeartBeat()
   SendWaiting()
end

function OnJobSuccess(jobId)
   local job = jobs[jobId]  -- nil: not one of these jobs
   jobs[jobId] = nil
   if job then
      RestApiPut("/studies/" .. job.study .. "/metadata/" .. IMAGES_SENT, tostring(job.images))
   end
end

function OnJobFailure(jobId)
   local job = jobs[jobId]
   jobs[jobId] = nil
   if job then
      waiting[job.study] = true
   end
end

function SendWaiting()
   local studies = waiting
   waiting = {}
   for studyId in pairs(studies) do
      local images = CountImages(studyId)
      local body = DumpJson({ Resources = { studyId }, Synchronous = false }, true)
      local answer = RestApiPost("/modalities/cmb_bridge/store", body)
      if answer then  -- nil: the study was deleted
         jobs[ParseJson(answer)["ID"]] = { study = studyId, images = images }
      end
   end
end

function CountImages(studyId)
   local images = 0
   for _, series in ipairs(ParseJson(RestApiGet("/studies/" .. studyId .. "/series") or "[]")) do
      if series["MainDicomTags"]["Modality"] == "MR" then
         images = images + #series["Instances"]
      end
   end
   return images
end
